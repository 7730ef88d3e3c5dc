"""Pushes use up reservations in the transaction that records them, once."""

import asyncio
import hashlib
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from ledger import apps, reading, reservations, workspaces
from ledger.facts import Content, ContentLearned, ManifestDeleted, ManifestPushed
from ledger.reservations import Reservation
from ledger.workspaces import Settings
from quota.levels import level
from registry.timestamps import to_ns
from tests.support import ledgers

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
BEGIN = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)


def at(seconds):
    return BEGIN + timedelta(seconds=seconds)


def digest(number):
    return hashlib.sha256(str(number).encode()).digest()


def push(seconds, number, tag, *layers, repository="acme/api", content=True):
    """A manifest of 10 bytes with layers (number, size)."""
    return ManifestPushed(
        "default",
        repository,
        digest(number),
        (to_ns(at(seconds)), number.to_bytes(16, "big")),
        OCI_IMAGE,
        10,
        tag,
        Content(blobs=tuple((digest(n), size) for n, size in layers)) if content else None,
    )


class Builds:
    """One workspace whose builds reserve and push."""

    def __init__(self, pool):
        self.pool = pool
        self.recorder = ledgers.recorder(pool)

    async def reserve(self, build, seconds, size=1000, *, app="api", ttl=3600):
        async with self.pool.acquire() as connection, connection.transaction():
            await workspaces.add_workspace(connection, "acme", 10**9)
            workspace = await workspaces.lock_workspace(connection, "acme")
            assert workspace is not None
            return await reservations.reserve(
                connection,
                workspace.id,
                Reservation(uuid.uuid4(), build, app, size, at(seconds), at(seconds + ttl)),
            )

    async def view(self):
        async with self.pool.acquire() as connection:
            return await reading.find_workspace(connection, "acme", now=at(5))

    async def reserve_unless_changed(self, build, view):
        async with self.pool.acquire() as connection:
            return await reservations.reserve_unless_changed(
                connection,
                view.id,
                Reservation(uuid.uuid4(), build, "api", 1000, at(5), at(3605)),
                view.version,
            )

    async def set_quota(self):
        async with self.pool.acquire() as connection, connection.transaction():
            await workspaces.configure(
                connection,
                "acme",
                Settings(quota_bytes=5),
                default_quota_bytes=10**9,
                level_of=level,
                now=at(4),
                new_id=uuid.uuid4,
            )

    async def left(self, seconds=100):
        async with self.pool.acquire() as connection:
            workspace = await connection.fetchval("SELECT id FROM workspaces WHERE name = 'acme'")
            return {
                item.build_id: item.bytes
                for item in await reservations.reservations(connection, workspace, now=at(seconds))
            }

    async def record(self, *facts, now=100):
        await self.recorder.record(facts, now=at(now))

    async def usual(self, app="api"):
        async with self.pool.acquire() as connection:
            workspace = await connection.fetchval("SELECT id FROM workspaces WHERE name = 'acme'")
            return await apps.usual_pushes(connection, workspace, app)


CHANGES = {
    "a push": lambda builds: builds.record(push(3, 2, "v2")),
    "another build": lambda builds: builds.reserve("other", 3),
    "a quota": lambda builds: builds.set_quota(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_was_decided_before_a_change_reserves_nothing(pool, change):
    builds = Builds(pool)
    await builds.record(push(1, 1, "v1"))
    before = await builds.view()
    await change(builds)
    assert await builds.reserve_unless_changed("late", before) is None
    assert "late" not in await builds.left()
    assert await builds.reserve_unless_changed("again", await builds.view()) is not None
    assert (await builds.left())["again"] == 1000


async def test_of_those_that_decided_on_the_same_figures_one_reserves(pool):
    builds = Builds(pool)
    await builds.record(push(1, 1, "v1"))
    for turn in range(10):
        view = await builds.view()
        reserved = await asyncio.gather(
            *(builds.reserve_unless_changed(f"{turn}-{number}", view) for number in range(5))
        )
        assert sum(item is not None for item in reserved) == 1
    assert len(await builds.left()) == 10


async def test_new_bytes_reduce_and_the_tag_closes(pool):
    builds = Builds(pool)
    await builds.reserve("one", 0)
    await builds.reserve("two", 1)
    await builds.reserve("other", 1, app="web")
    await builds.record(push(10, 1, None, (100, 300)))
    assert await builds.left() == {"one": 690, "two": 1000, "other": 1000}
    await builds.record(push(11, 2, "v1", (100, 300), (101, 50)))
    assert await builds.left() == {"two": 1000, "other": 1000}
    await builds.record(push(20, 3, "v2"))
    assert await builds.left() == {"other": 1000}


async def test_what_the_workspace_held_already_reduces_nothing(pool):
    builds = Builds(pool)
    await builds.record(push(1, 1, "base", (100, 300)))
    await builds.reserve("one", 5)
    await builds.record(push(10, 2, None, (100, 300)))
    assert await builds.left() == {"one": 990}


async def test_duplicates_and_a_replay_from_the_start_settle_nothing_twice(pool):
    builds = Builds(pool)
    history = [push(10, 1, None, (100, 300)), push(11, 2, "v1"), push(12, 2, "latest")]
    await builds.reserve("one", 0)
    await builds.reserve("two", 1)
    await builds.record(*history)
    await builds.reserve("three", 50)
    left, usual = await builds.left(), await builds.usual()
    assert left == {"two": 1000, "three": 1000}
    for _round in range(2):
        await builds.record(*history)
    for fact in reversed(history):
        await builds.record(fact, fact)
    assert await builds.left() == left
    assert await builds.usual() == usual == [10]


async def test_an_event_older_than_a_reservation_leaves_it_alone(pool):
    builds = Builds(pool)
    await builds.reserve("one", 30)
    await builds.record(push(29, 1, "v1", (100, 300)))
    assert await builds.left() == {"one": 1000}


async def test_a_build_that_asks_again_has_a_new_reservation(pool):
    builds = Builds(pool)
    first = await builds.reserve("one", 0)
    await builds.record(push(10, 1, "v1"))
    assert await builds.left() == {}
    again = await builds.reserve("one", 20, 500)
    assert again.id == first.id
    assert await builds.left() == {"one": 500}
    await builds.record(push(10, 1, "v1"), push(15, 2, "v2"))
    assert await builds.left() == {"one": 500}
    await builds.record(push(40, 3, "v3"))
    assert await builds.left() == {}


async def test_what_has_expired_is_neither_reserved_nor_settled(pool):
    builds = Builds(pool)
    await builds.reserve("one", 0, ttl=50)
    await builds.reserve("two", 1, ttl=3600)
    assert await builds.left(seconds=60) == {"two": 1000}
    await builds.record(push(40, 1, "v1"), now=60)
    assert await builds.left(seconds=60) == {}


async def test_content_that_is_fetched_later_completes_the_history(pool):
    builds = Builds(pool)
    await builds.reserve("one", 0)
    await builds.reserve("two", 1)
    await builds.record(push(10, 1, "v1", content=False))
    await builds.record(
        ContentLearned(
            "default", "acme/api", digest(1), OCI_IMAGE, 10, Content(blobs=((digest(100), 300),))
        )
    )
    assert await builds.left() == {"two": 1000}
    assert await builds.usual() == [310]


async def test_an_index_is_one_push_with_all_that_its_children_brought(pool):
    builds = Builds(pool)
    await builds.record(push(10, 1, None, (100, 300)), push(11, 2, None, (100, 300), (101, 70)))
    index = ManifestPushed(
        "default",
        "acme/api",
        digest(3),
        (to_ns(at(12)), b""),
        OCI_INDEX,
        5,
        "v1",
        Content(children=(digest(1), digest(2))),
    )
    await builds.record(index)
    assert await builds.usual() == [10 + 300 + 10 + 70 + 5]


async def test_a_push_after_a_delete_is_a_new_one_for_reservations(pool):
    builds = Builds(pool)
    await builds.record(push(1, 1, "v1", (100, 300)))
    gone = ManifestDeleted("default", "acme/api", digest(1), (to_ns(at(2)), b"\xff"))
    await builds.record(gone)
    await builds.reserve("one", 5)
    again = ManifestPushed(
        "default",
        "acme/api",
        digest(1),
        (to_ns(at(9)), b""),
        OCI_IMAGE,
        10,
        None,
        Content(blobs=((digest(100), 300),)),
    )
    await builds.record(again)
    assert await builds.left() == {"one": 690}
    assert await builds.usual() == [310]
