"""What a client declares is its own affair: it takes nobody's sum out of its type."""

from runtime.kafka import create_topics
from tests.support.consumers import caught_up, consuming, event, publish, settings_for, usage


async def test_sizes_beyond_all_storage_wait_for_storages_word_and_hold_up_nobody(
    pool, kafka_bootstrap
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    async with consuming(settings, pool):
        # In one partition, so that they share batches.
        absurd = [event(f"absurd-{n % 3}/app", layer=2**63 - 1) for n in range(30)]
        await publish(settings, "absurd", *absurd, event("modest/app", size=100, layer=5000))
        await caught_up(settings, pool)
    assert await usage(pool, "modest") == 5100
    for number in range(3):
        assert await usage(pool, f"absurd-{number}") == 10 * 100  # their documents
    pending = await pool.fetchval("SELECT count(*) FROM manifests WHERE present AND blobs IS NULL")
    assert pending == 30
