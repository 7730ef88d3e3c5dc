"""Clocks that are wrong: what was told ahead of its time heals with the registry, whatever it claims."""

import random
import time
import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import pytest_asyncio

from ledger.ahead import SECOND_NS, told_ahead
from ledger.facts import Content, DigestDeleted, Fact, ManifestPushed, TagRemoved
from ledger.runs import Item
from quota.deleting import own_delete
from quota.reconcile import Reconciler
from registry.client import RegistryClient
from registry.media_types import OCI_MANIFEST
from registry.push import Image, build_image, build_layer, push_image
from registry.transport import Retries
from registry.workspaces import WorkspaceRule
from tests.support import ledgers
from tests.support.settling import Clock, worker
from tests.support.waiting import wait_until

REPOSITORY = "acme/api"
YEAR_2200 = 7_258_118_400 * SECOND_NS
LAST = 2**63 - 1


@pytest_asyncio.fixture
async def client(backend):
    async with (
        backend.registry("any") as registry,
        RegistryClient(registry.url, retries=Retries(attempts=1)) as client,
    ):
        yield client


async def settle(pool, client, clock):
    clock.now = max(clock.now, datetime.now(UTC)) + timedelta(seconds=10)
    settling = worker(pool, client, clock)
    await settling.settle_deletes()
    await settling.settle_due()


async def reconcile(pool, client, *, confirm_now=False):
    reconciler = Reconciler(
        pool=pool,
        recorder=ledgers.recorder(pool),
        client=client,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=lambda: datetime.now(UTC),
        in_flight=0.1,
    )
    return await reconciler.run(confirm_now=confirm_now)


def an_image(name: str) -> Image:
    return build_image([build_layer(name, 300)], label=name)


def bytes_of(image: Image) -> int:
    return sum(len(blob.content) for blob in (*image.blobs, image.manifest))


def pushed(image: Image, ns: int, tag: str | None = "1", *, size: int | None = None):
    content = Content(blobs=tuple((blob.digest, size or len(blob.content)) for blob in image.blobs))
    return ManifestPushed(
        "default", REPOSITORY, image.digest, (ns, uuid.uuid4().bytes), OCI_MANIFEST,
        len(image.manifest.content), tag, content,
    )  # fmt: skip


def deleted(image: Image, ns: int):
    return DigestDeleted("default", REPOSITORY, image.digest, (ns, uuid.uuid4().bytes))


def untagged(ns: int):
    return TagRemoved("default", REPOSITORY, "1", (ns, uuid.uuid4().bytes))


async def record(pool, *facts: Fact, ago: float = 30.0) -> None:
    """As they arrive `ago` seconds ago."""
    arrived = time.time_ns() - int(ago * SECOND_NS)
    recorder = ledgers.recorder(pool)
    for fact in facts:
        await recorder.record([told_ahead(fact, arrived)], now=datetime.now(UTC))


async def exact(pool, image: Image) -> bool:
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    return await ledgers.usage(pool) == {"acme": bytes_of(image)} and await ledgers.tags(pool) == {
        REPOSITORY: {"1": image.digest}
    }


@pytest.mark.parametrize("far", [YEAR_2200, LAST])
async def test_what_is_forged_for_the_year_2200_heals_by_itself(pool, client, far):
    """A push of a terabyte, a delete of a real image, a tag set, a tag removed."""
    image, forged = an_image("real"), an_image("forged")
    await push_image(client, REPOSITORY, image, "1")
    terabyte = pushed(forged, far, "2", size=2**40)
    for lie in (terabyte, deleted(image, far), pushed(forged, far), untagged(far)):
        await ledgers.empty(pool)
        clock = Clock()
        await record(pool, pushed(image, time.time_ns() - 60 * SECOND_NS), ago=60)
        assert await exact(pool, image)
        await record(pool, lie, lie)
        assert not await exact(pool, image)

        async def healed(clock=clock):
            await settle(pool, client, clock)
            return await exact(pool, image)

        await wait_until(healed, 20, interval=0.3, what="the registry settles it")
        # And nothing waits for that year: a later push and delete win at once.
        other = an_image("later")
        await record(pool, pushed(other, time.time_ns() + SECOND_NS), ago=0)
        assert await ledgers.tags(pool) == {REPOSITORY: {"1": other.digest}}
        await record(pool, deleted(image, time.time_ns() + 2 * SECOND_NS), ago=0)
        assert (REPOSITORY, image.digest) not in await ledgers.manifests(pool)


async def test_nodes_minutes_apart_are_right_after_the_next_reconcile(pool, client):
    first, second = an_image("first"), an_image("second")
    for image in (first, second):
        await push_image(client, REPOSITORY, image, "1")
    now = time.time_ns()
    await record(pool, pushed(first, now + 240 * SECOND_NS), ago=40)
    await record(pool, pushed(second, now - 20 * SECOND_NS), ago=20)
    assert await ledgers.tags(pool) == {REPOSITORY: {"1": first.digest}}
    report = await reconcile(pool, client)
    assert sum(drift.corrected for drift in report.drift) == 1
    assert await ledgers.tags(pool) == {REPOSITORY: {"1": second.digest}}
    # What follows at the right time wins at once.
    third = an_image("third")
    await record(pool, pushed(third, time.time_ns() + SECOND_NS), ago=0)
    assert await ledgers.tags(pool) == {REPOSITORY: {"1": third.digest}}
    assert (await reconcile(pool, client)).problems == []


async def test_a_clock_that_was_set_back_is_right_after_the_next_reconcile(pool, client):
    """The stamps that were told before are a day above what the registry says now."""
    first, second = an_image("before"), an_image("after")
    await push_image(client, REPOSITORY, first)
    await push_image(client, REPOSITORY, second, "1")
    day = 86_400 * SECOND_NS
    # The registry's clock is right; seen from the facts it was set back by the whole lead.
    await record(pool, pushed(first, time.time_ns() + day), ago=-86_400)
    await record(pool, pushed(second, time.time_ns() - 20 * SECOND_NS), ago=20)
    assert await ledgers.tags(pool) == {REPOSITORY: {"1": first.digest}}
    await reconcile(pool, client)
    assert await ledgers.tags(pool) == {REPOSITORY: {"1": second.digest}}


@pytest.mark.parametrize("far", [YEAR_2200, LAST])
async def test_what_an_earlier_release_believed_is_healed_by_reconcile_visibly(pool, client, far):
    kept, moved, gone = an_image("kept"), an_image("moved"), an_image("gone")
    await push_image(client, REPOSITORY, moved, "1")
    await push_image(client, REPOSITORY, kept, "2")
    past = time.time_ns() - 3600 * SECOND_NS
    await record(pool, pushed(kept, past, "2"), pushed(moved, past), pushed(gone, past), ago=3600)
    # As its rows were: the tag on what is gone, a delete of what is there, a push of what is not.
    await pool.execute("UPDATE tags SET set_ns = $1 WHERE name = '1'", far)
    await pool.execute(
        "UPDATE manifests SET delete_ns = $1, present = false WHERE digest = $2", far, kept.digest
    )
    await pool.execute("UPDATE manifests SET push_ns = $1 WHERE digest = $2", far, gone.digest)
    await ledgers.recorder(pool).record([], now=datetime.now(UTC))
    report = await reconcile(pool, client, confirm_now=True)
    drift = report.drift[0]
    assert drift.corrected >= 1
    assert drift.forgotten == 1
    assert await ledgers.tags(pool) == {REPOSITORY: {"1": moved.digest, "2": kept.digest}}
    assert await ledgers.manifests(pool) == {
        (REPOSITORY, moved.digest), (REPOSITORY, kept.digest)
    }  # fmt: skip
    stamps = await pool.fetchval(
        """SELECT greatest(max(push_ns), max(seen_ns), max(delete_ns),
                           (SELECT max(greatest(set_ns, untag_ns)) FROM tags)) FROM manifests"""
    )
    assert stamps < time.time_ns() + 10 * SECOND_NS
    assert (await reconcile(pool, client)).drift == []


@pytest.mark.parametrize("far", [YEAR_2200, LAST])
async def test_our_own_delete_of_what_was_pushed_at_the_end_of_time_counts(pool, far):
    image = an_image("last")
    await record(pool, pushed(image, time.time_ns() - 60 * SECOND_NS), ago=60)
    await pool.execute("UPDATE manifests SET push_ns = $1", far)
    row = await pool.fetchrow("SELECT repository_id, push_ns FROM manifests")
    item = Item(
        position=0,
        unit=0,
        repository_id=row["repository_id"],
        registry="default",
        repository=REPOSITORY,
        digest=image.digest,
        app="api",
        tags=(),
        code="",
        why="",
        promised_bytes=0,
        push_ns=row["push_ns"],
        media_type="",
    )
    facts = own_delete(item, datetime.now(UTC), uuid.uuid4)
    await ledgers.recorder(pool).record(facts, now=datetime.now(UTC), source="cleanup")
    assert await ledgers.usage(pool) == {}


async def test_any_order_on_postgres_ends_in_the_same_rows(pool, client):
    image, other = an_image("one"), an_image("two")
    now = time.time_ns()
    arrived = now - 30 * SECOND_NS
    facts = [
        told_ahead(fact, arrived + number * SECOND_NS)
        for number, fact in enumerate(
            (
                pushed(image, now - 50 * SECOND_NS),
                pushed(other, YEAR_2200),
                deleted(image, YEAR_2200),
                pushed(image, now + 200 * SECOND_NS),
                untagged(YEAR_2200),
                pushed(other, now - 10 * SECOND_NS, "2"),
            )
        )
    ]
    again = [
        msgspec.structs.replace(
            fact, arrived_ns=fact.arrived_ns + 100 * SECOND_NS * (fact.arrived_ns >= 0)
        )
        for fact in facts
    ]
    found = []
    for seed in range(6):
        await ledgers.empty(pool)
        order = [*facts, *again]
        random.Random(seed).shuffle(order)
        for fact in order:
            await ledgers.recorder(pool).record([fact], now=datetime.now(UTC))
        found.append(await ledgers.rows(pool))
    assert all(rows == found[0] for rows in found)
