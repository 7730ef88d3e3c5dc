"""The history of a tag in Postgres: exact in any order, and no longer than what can still matter."""

from datetime import UTC, datetime

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ledger import reading
from ledger.facts import Fact, ManifestDeleted, ManifestPushed
from ledger.naming import Named
from tests.integration.ledger.test_law import database
from tests.support import ledgers
from tests.support.histories import IMAGES, OCI_IMAGE, deliveries, stamp
from tests.support.law import histories_to_try
from tests.support.naming import REPOSITORY, named_by, namings

NOW = datetime(2026, 12, 1, tzinfo=UTC)
A, B = IMAGES[0][0], IMAGES[1][0]

LIVE = f"""
SELECT t.name, {reading.NAMED} FROM tags t
JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
WHERE {reading.LIVE_TAG_CONDITION}
"""


def push(digest: bytes, moment: int, tag: str = "1.8") -> Fact:
    return ManifestPushed("default", REPOSITORY, digest, stamp(moment), OCI_IMAGE, 100, tag)


async def named_of(pool) -> dict[str, Named]:
    return {
        row["name"]: Named(row["named_ns"], row["first_push_ns"], row["latest_ns"])
        for row in await pool.fetch(LIVE)
    }


async def repeats(pool) -> list[int]:
    rows = await pool.fetch("SELECT set_ns FROM tag_repeats ORDER BY set_ns")
    return [row["set_ns"] - stamp(0)[0] for row in rows]


async def record(pool, *batches: list[Fact]) -> None:
    recorder = ledgers.recorder(pool)
    for batch in batches:
        await recorder.record(batch, now=NOW)


def test_the_ledger_knows_what_the_whole_set_of_facts_says_in_whatever_batches(postgres_url):
    with database(postgres_url) as opened:

        @settings(
            max_examples=histories_to_try(60),
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def law(data):
            opened.run(ledgers.empty(opened.pool))
            history = data.draw(namings())
            opened.run(record(opened.pool, *data.draw(deliveries(history))))
            assert opened.run(named_of(opened.pool)) == named_by(history)

        law()


async def test_a_mirror_of_a_thousand_nights_costs_a_row_a_night_until_the_tag_moves(pool):
    nights = [push(A, 10 * night) for night in range(1000)]
    await record(pool, *([fact] for fact in nights[:20]), nights[20:], nights[:500])
    assert await named_of(pool) == {"1.8": Named(stamp(0)[0])}
    assert await repeats(pool) == [10 * night for night in range(1000)]
    packed = await pool.fetchval("SELECT octet_length(history) FROM tags")
    assert packed < 150, "what a push reads and writes does not grow with the nights"

    await record(pool, [push(B, 5005)])
    assert await named_of(pool) == {"1.8": Named(stamp(5010)[0])}, "a move that was heard of late"
    assert await repeats(pool) == [10 * night for night in range(501, 1000)]
    await record(pool, [ManifestDeleted("default", REPOSITORY, A, stamp(9985))])
    assert await named_of(pool) == {"1.8": Named(stamp(9990)[0])}

    await record(pool, [push(A, 10_000)])
    assert await named_of(pool) == {"1.8": Named(stamp(9990)[0])}
    await record(pool, [push(B, 10_010)])
    assert await named_of(pool) == {"1.8": Named(stamp(10_010)[0])}
    assert await repeats(pool) == []


async def test_a_row_of_an_earlier_release_begins_with_what_is_known(pool):
    await record(pool, [push(A, 10)], [push(A, 20)], [push(A, 0, "1.11")])
    await pool.execute(
        "UPDATE tags SET named_ns = NULL, first_push_ns = NULL, history_set_ns = NULL,"
        " history_partial = NULL, history = NULL; DELETE FROM tag_repeats"
    )
    await pool.execute("UPDATE tags SET set_ns = 1000000000 WHERE name = '1.11'")
    before = await named_of(pool)
    assert before == {"1.8": Named(stamp(20)[0]), "1.11": Named()}, (
        "a look's stamp is a whole second"
    )
    await record(pool, [push(A, 30), push(A, 40)])
    await record(pool, [push(A, 50, "1.11")])
    assert await named_of(pool) == {
        "1.8": Named(stamp(20)[0]),
        "1.11": Named(-1, stamp(50)[0], 2 * 10**9),
    }


async def test_what_an_earlier_release_wrote_beside_us_is_not_taken_for_what_we_knew(pool):
    await record(pool, [push(A, 1)], [push(A, 2)])
    await pool.execute("UPDATE tags SET digest = $1, set_ns = $2", B, stamp(30)[0])
    await pool.execute(
        "INSERT INTO manifests (repository_id, digest, push_ns, present)"
        " SELECT id, $1, $2, true FROM repositories",
        B,
        stamp(30)[0],
    )
    assert await named_of(pool) == {"1.8": Named(stamp(30)[0])}
    await record(pool, [push(B, 40)])
    assert await named_of(pool) == {"1.8": Named(stamp(30)[0])}
