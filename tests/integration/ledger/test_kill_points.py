"""A process may end after any statement: nothing of the batch is there, and repeating it is exact."""

import asyncio
import sys
from datetime import UTC, datetime

import asyncpg
import pytest

from ledger.facts import BlobStored, ManifestDeleted, ManifestPushed, TagRemoved
from ledger.mapping import Mapper
from ledger.offsets import Advance, Mark, StaleOwnerError, advance, take_partition
from quota.levels import level
from registry.workspaces import Placement, WorkspaceRule
from runtime.postgres import UNAVAILABLE
from tests.support import ledgers
from tests.support.histories import BLOBS, DISPUTED, IMAGES, INDEXES, stamp
from tests.support.killing import KillingPool
from tests.support.memory_ledger import Crash

NOW = datetime(2026, 11, 23, tzinfo=UTC)
HERE = {"cluster_id": "c", "topic": "t"}
QUOTA = 400


def push(repository, moment, manifest, tag=None):
    named, media_type, size, content = manifest
    return ManifestPushed(
        "default", repository, named, stamp(moment), media_type, size, tag, content
    )


BEFORE = [
    push("acme/api", 1, IMAGES[0], "1"),
    push("acme/api", 2, DISPUTED[0], "2"),
    push("other/api", 3, DISPUTED[1]),
    push("other/api", 4, INDEXES[0], "latest"),
]
# Everything at once: a move, a delete, an untag, disputed sizes, storage's word, a new repository.
BATCH = [
    push("acme/api", 11, IMAGES[1], "1"),
    ManifestDeleted("default", "acme/api", DISPUTED[0][0], stamp(12)),
    TagRemoved("default", "other/api", "latest", stamp(13)),
    push("acme/web", 14, DISPUTED[1], "1"),
    push("other/api", 15, IMAGES[0]),
    ManifestDeleted("default", "other/api", DISPUTED[1][0], stamp(16)),
    BlobStored(BLOBS[2], 5000),
]


async def everything(pool):
    """All rows, with what stands outside convergence: offsets, levels, and what was announced."""
    return (
        await ledgers.rows(pool),
        [tuple(row) for row in await pool.fetch("SELECT next_offset FROM consumer_offsets")],
        [tuple(row) for row in await pool.fetch("SELECT name, level FROM workspaces"
            " WHERE usage_bytes > 0 ORDER BY name")],
        sorted(
            tuple(row)
            for row in await pool.fetch("SELECT workspace, type, data::text FROM outbox")
        ),
        sorted(
            tuple(row)
            for row in await pool.fetch("SELECT kind, source, stamp_ns FROM observations")
        ),
    )  # fmt: skip


async def begin(pool):
    await ledgers.empty(pool)
    await ledgers.recorder(pool, quota_bytes=QUOTA).record(BEFORE, now=NOW)
    async with pool.acquire() as connection:
        return await take_partition(connection, **HERE, partition=0, first_offset=0, owner="a")


async def record(pool, used, owner):
    async def move_offset(connection, _recorded):
        await advance(
            connection, **HERE, advances=[Advance(0, owner.epoch, 0, Mark(len(BATCH) - 1, 0, b""))]
        )

    await ledgers.recorder(used, quota_bytes=QUOTA).record(
        BATCH, now=NOW, source="test", within=move_offset
    )


@pytest.mark.promise("exactly-once")
async def test_a_batch_that_ends_after_any_statement_leaves_nothing_and_can_be_repeated(
    pool, promise
):
    owner = await begin(pool)
    counting = KillingPool(pool)
    await record(pool, counting, owner)
    whole = await everything(pool)
    assert counting.ran > 15
    for after in range(1, counting.ran + 1):
        owner = await begin(pool)
        before = await everything(pool)
        with pytest.raises(Crash):
            await record(pool, KillingPool(pool, after), owner)
        assert await everything(pool) == before, after
        await record(pool, pool, owner)
        promise.count("kill points between two statements of a batch", 1)
        promise.count("counter drift", await ledgers.drift(pool), "bytes")
        assert await everything(pool) == whole, after
        assert await ledgers.drift(pool) == 0, after
        assert await ledgers.references_agree(pool)
        # And once more, as after a commit whose answer was lost: refused as a whole.
        with pytest.raises(StaleOwnerError):
            await record(pool, pool, owner)
        assert await everything(pool) == whole, after


async def test_a_mapping_that_ends_after_any_statement_leaves_nothing_and_can_be_repeated(pool):
    async def map_away(used):
        mapper = Mapper(
            used,
            rule=WorkspaceRule(ledgers.PATTERN),
            default_quota_bytes=QUOTA,
            level_of=level,
        )
        await mapper.map("default", "other/api", Placement("acme", "moved"), now=NOW)

    await begin(pool)
    counting = KillingPool(pool)
    await map_away(counting)
    whole = await everything(pool)
    for after in range(1, counting.ran + 1):
        await begin(pool)
        before = await everything(pool)
        with pytest.raises(Crash):
            await map_away(KillingPool(pool, after))
        assert await everything(pool) == before, after
        await map_away(pool)
        assert await everything(pool) == whole, after
        assert await ledgers.usage(pool) == await ledgers.recount(pool)
        assert await ledgers.references_agree(pool)
    sys.stdout.write(f"\nkill points: {counting.ran} tried in a mapping, drift 0\n")


@pytest.mark.promise("deadlocks")
async def test_recorders_that_meet_in_opposite_order_fail_no_batch(pool, promise, scale):
    repositories = ("acme/api", "other/api", "single", "third/api")
    recorders = [ledgers.recorder(pool, quota_bytes=QUOTA) for _ in range(scale.pick(3, 6))]
    batches = scale.pick(50, 500)
    failed: list[Exception] = []

    async def write(number):
        direction = 1 if number % 2 else -1
        for moment in range(batches):
            facts = [
                push(repository, 1000 * moment + number, (*IMAGES, *DISPUTED)[(moment + at) % 6])
                for at, repository in enumerate(repositories)
            ]
            facts += [BlobStored(blob, 10 + number) for blob in BLOBS[moment % 3 : moment % 3 + 3]]
            try:
                await recorders[number].record(facts[::direction], now=NOW)
            except (asyncpg.PostgresError, *UNAVAILABLE) as error:
                failed.append(error)

    await asyncio.gather(*(write(number) for number in range(len(recorders))))
    promise.count("writers with overlapping keys in opposite orders", len(recorders))
    promise.count("batches", batches * len(recorders))
    promise.count("failed", len(failed))
    assert failed == []
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    assert await ledgers.references_agree(pool)


OF_ONE_BLOB = {
    "its first use": ([IMAGES[3]], push("acme/api", 5, IMAGES[0]), 9000),
    "another claim": ([IMAGES[0]], push("acme/api", 5, DISPUTED[0]), 11),
    "the end of the largest claim": (
        [IMAGES[0], DISPUTED[0]],
        ManifestDeleted("default", "acme/api", DISPUTED[0][0], stamp(9)),
        1100,
    ),
}


@pytest.mark.parametrize("meanwhile", OF_ONE_BLOB)
async def test_storages_word_on_a_blob_may_come_at_the_same_moment_as(pool, meanwhile):
    """Neither transaction locks what the other one changes: the later one must see the earlier."""
    held, change, size = OF_ONE_BLOB[meanwhile]
    for number in range(30):
        await ledgers.empty(pool)
        one, other = ledgers.recorder(pool), ledgers.recorder(pool)
        await one.record([push("acme/api", at, image) for at, image in enumerate(held)], now=NOW)
        both = one.record([change], now=NOW), other.record([BlobStored(BLOBS[1], size)], now=NOW)
        await asyncio.gather(*(both if number % 2 else reversed(both)))
        assert await ledgers.usage(pool) == await ledgers.recount(pool), number
