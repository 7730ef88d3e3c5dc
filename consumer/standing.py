"""How far the consumer is, seen from outside of it: by connections of their own, which cannot be stuck."""

from collections.abc import Collection

from ledger import figures
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.postgres import open_pool
from runtime.settings import Settings
from runtime.topics import topic_reader
from runtime.watchdog import Standing


async def positions(settings: Settings, cluster: str) -> dict[int, int]:
    """Partition → the ledger's next offset, of those that hold more than it has.

    Raises:
        KafkaError, or one of `runtime.postgres.UNAVAILABLE`: it cannot be known now.
    """
    async with topic_reader(settings, fetch_bytes=1) as reader:
        extents = await reader.extents(NOTIFICATIONS_TOPIC)
    pool = await open_pool(settings.required_database_url(), size=1, name="registry-quota watchdog")
    try:
        async with pool.acquire() as connection:
            stands = await figures.next_offsets(connection, cluster, NOTIFICATIONS_TOPIC)
    finally:
        pool.terminate()
    found = {}
    for number, extent in extents.items():
        position = max(extent.first, stands.get(number, extent.first))
        if position < extent.end:
            found[number] = position
    return found


def standing(waiting: dict[int, int], owned: Collection[int]) -> Standing:
    """Of `waiting` what a consumer answers for: its own partitions; without any, all of them.

    A member without partitions may be the one whose rejoining mends a group that has come to rest
    (aiokafka #1187). PURE.
    """
    return {
        f"partition {number}": f"offset {position}"
        for number, position in waiting.items()
        if not owned or number in owned
    }
