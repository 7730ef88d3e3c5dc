"""Several consumers that come and go under load end where one alone ends, with a drift of 0."""

import asyncio
import json
import random
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from ledger.verify import verify
from runtime.kafka import NOTIFICATIONS_TOPIC, create_topics
from runtime.postgres import open_pool
from runtime.producers import open_producer
from tests.support import ledgers
from tests.support.consumers import (
    caught_up,
    consuming,
    event,
    settings_for,
    topic_ends,
)
from tests.support.database import cloned_database
from tests.support.waiting import wait_until

EVENTS = 3000
BEGAN = datetime(2026, 11, 23, tzinfo=UTC)
OCI = "application/vnd.oci.image.manifest.v1+json"


def digest(*parts):
    return f"sha256:{uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)).hex * 2}"


def history(workspaces, seed):
    """Pushes that share layers, moved tags, deletes, blobs whose true size differs: (key, event)."""
    chance = random.Random(seed)
    found = []
    for number in range(EVENTS):
        workspace = chance.choice(workspaces)
        image = chance.randrange(40)
        target: dict[str, Any] = {"repository": f"{workspace}/app{chance.randrange(3)}"}
        kind = chance.choice(("push", "push", "push", "delete", "blob"))
        if kind == "blob":
            blob = chance.randrange(12)
            target |= {
                "mediaType": "application/octet-stream",
                "digest": digest("layer", blob),
                "size": 1000 + blob * (1 + blob % 2),
            }
        else:
            target["digest"] = digest("image", image)
        if kind == "push":
            target |= {"mediaType": OCI, "size": 400 + image, "tag": str(chance.randrange(5))}
            target["references"] = [
                {"mediaType": OCI, "digest": digest("layer", layer % 12), "size": 1000 + layer % 12}
                for layer in (image, image + 1, image + 5)
            ]
        event = {
            "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "timestamp": (BEGAN + timedelta(milliseconds=number)).isoformat(),
            "action": "delete" if kind == "delete" else "push",
            "target": target,
        }
        found.append((workspace, event))
    chance.shuffle(found)
    return found


async def publish_slowly(settings, events, sent):
    producer = await open_producer(settings)
    try:
        for start in range(0, len(events), 100):
            await asyncio.gather(
                *(
                    producer.send_and_wait(
                        NOTIFICATIONS_TOPIC, value=json.dumps(event).encode(), key=key.encode()
                    )
                    for key, event in events[start : start + 100]
                )
            )
            sent.append(start + 100)
    finally:
        await producer.stop()


def differing(rows, others):
    """How many rows of the ledger are in one of the two alone."""
    return sum(len(set(found) ^ set(others[name])) for name, found in rows.items())


async def drift(pool):
    async with pool.acquire() as connection:
        return [item async for item in verify(connection) if not item.exact]


@pytest.mark.promise("rebalance")
async def test_consumers_that_come_and_go_end_where_one_alone_ends(
    pool, postgres_url, kafka_bootstrap, promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspaces = [f"r{uuid.uuid4().hex[:8]}" for _ in range(8)]
    events = history(workspaces, seed=1)
    sent: list[int] = []

    def sent_all_of(part):
        return lambda: bool(sent) and sent[-1] >= part * EVENTS

    async with AsyncExitStack() as stack:
        # Small batches, so that many of them are under way when partitions move.
        joining = partial(consuming, settings, pool, batch_max_events=40)
        first = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(joining("first"))
        publishing = asyncio.create_task(publish_slowly(settings, events, sent))
        await wait_until(sent_all_of(0.1), 30)
        second = await stack.enter_async_context(joining("second"))
        third = await stack.enter_async_context(joining("third"))
        await wait_until(lambda: second.ready and third.ready, 60)
        # Frozen past its session: somebody else has all of its partitions when it wakes up.
        await pool.execute("UPDATE consumer_offsets SET epoch = epoch + 1, owner = 'other'")
        await first.aclose()
        await publishing
        await caught_up(settings, pool)
        before = await ledgers.rows(pool)
        await publish_slowly(settings, events[:500], sent)  # duplicates, as after a lost answer
        await caught_up(settings, pool)
    several = await ledgers.rows(pool)
    promise.count("events", len(events))
    promise.count("duplicates", 500)
    promise.count("duplicates with effect", differing(before, several))
    assert await drift(pool) == []
    owners = await pool.fetchval("SELECT sum(epoch) FROM consumer_offsets")

    async with cloned_database(postgres_url) as url:
        alone = await open_pool(url, size=4, name="alone")
        try:
            async with consuming(settings_for(kafka_bootstrap), alone, "alone"):
                await caught_up(settings, alone)
            assert await drift(alone) == []
            one = await ledgers.rows(alone)
            promise.count("rows that one alone writes differently", differing(several, one))
            for name, found in several.items():  # the few that differ, not the whole of both
                assert set(found) ^ set(one[name]) == set(), name
            assert one == several == before
        finally:
            await alone.close()
    taken = [row for row in several["usage"] if row[0] in workspaces]
    assert len(taken) == len(workspaces)
    promise.count("partitions taken over", owners)


@pytest.mark.promise("rebalance")
async def test_more_consumers_than_partitions_leave_no_partition_behind(
    pool, kafka_bootstrap, promise, scale
):
    """A group that grows beyond its partitions and shrinks again (aiokafka #1187)."""
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    name, loop = f"r{uuid.uuid4().hex[:8]}", asyncio.get_running_loop()
    partitions = len(await topic_ends(settings))
    pauses: list[float] = []

    async def all_owned(consumers):
        """Return when every partition is read by somebody who stays, and its events are recorded."""
        before = loop.time()
        events = [event(f"{name}{number}/app") for number in range(4 * partitions)]
        for number, one in enumerate(events):
            key, value = f"{name}{number}".encode(), json.dumps(one).encode()
            await producer.send_and_wait(NOTIFICATIONS_TOPIC, value=value, key=key)
        await caught_up(settings, pool)
        await wait_until(
            lambda: sum(len(each.owned) for each in consumers) == partitions, 30, what="all owned"
        )
        pauses.append(loop.time() - before)
        return len(events)

    async with AsyncExitStack() as stack:
        producer = await open_producer(settings)
        stack.push_async_callback(producer.stop)
        first = await stack.enter_async_context(consuming(settings, pool, "first"))
        events = await all_owned([first])
        for round_ in range(scale.pick(1, 3)):
            async with AsyncExitStack() as crowd:
                others = await asyncio.gather(
                    *(
                        crowd.enter_async_context(consuming(settings, pool, f"{round_}-{number}"))
                        for number in range(partitions + 1)
                    )
                )
                await wait_until(
                    lambda: sum(bool(each.owned) for each in (first, *others)) == partitions,  # noqa: B023 - awaited here
                    60,
                    what="everybody who can has a partition, and no more",
                )
                events += await all_owned([first, *others])
                # Those without a partition stand by: nothing is wrong with them.
                await wait_until(
                    lambda: all(each.ready for each in (first, *others)),  # noqa: B023
                    30,
                    what="all are ready",
                )
            events += await all_owned([first])
    promise.count("members beside so many partitions", partitions + 2)
    promise.worst("longest pause", max(pauses))
    assert await drift(pool) == []
    assert (
        await pool.fetchval(
            "SELECT sum(usage_bytes) FROM workspaces WHERE name LIKE $1", f"{name}%"
        )
        == 5100 * events
    )
