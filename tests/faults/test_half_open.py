"""Connections that died without a word: both ends keep them open, nothing comes, and nobody says so."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.conftest import Faulty
from tests.support.consumers import event
from tests.support.inbox import event_ids
from tests.support.promises import Promise, Scale
from tests.support.receiver_program import receiver_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("half-open")

LONGEST_SECONDS = 150
"""A statement's time-out, once more for its transaction, and what a busy machine may add."""
Count = Callable[[], Coroutine[Any, Any, int]]
ONE_MORE = """INSERT INTO outbox (event_id, workspace_id, workspace, type, data, occurred_at)
              SELECT gen_random_uuid(), id, name, 'io.registryquota.image.recorded.v1', '{}', now()
              FROM workspaces WHERE name = $1"""


async def test_a_receiver_replaces_its_dead_connections_to_kafka(
    faulty: Faulty, promise: Promise, scale: Scale, tmp_path: Path
):
    async with (
        receiver_program(
            tmp_path / "log", bootstrap=faulty.front, kafka=faulty.stack.kafka_bootstrap
        ) as receiver,
        receiver.load.running("half-open", workers=4) as load,
    ):
        for _ in range(scale.pick(1, 5)):
            await load.reaches(50)
            load.slowest, refused = 0.0, load.answers[503]
            assert faulty.proxies.kafka.abandon() > 0
            began = time.monotonic()
            await wait_until(lambda: load.answers[503] > refused, 10, what="it is noticed")  # noqa: B023 - awaited here
            promise.worst("receiver: time to 503", time.monotonic() - began)
            await load.reaches(1)
            promise.worst("receiver: events taken again after", time.monotonic() - began)
            assert load.slowest < 0.8 + 2
    lost = await receiver.lost()
    promise.count("acknowledged", len(load.acknowledged))
    promise.count("lost", len(lost))
    assert lost == set()
    assert set(load.answers) <= {202, 503}


async def test_every_part_gets_over_dead_connections_to_postgres(
    faulty: Faulty, promise: Promise, scale: Scale
):
    if not scale.long:
        pytest.skip("lasts as long as the parts' time-outs: part of `make faults`")
    await gets_over(faulty, promise, "Postgres", faulty.proxies.postgres.abandon)


async def test_every_part_gets_over_dead_connections_to_kafka(
    faulty: Faulty, promise: Promise, scale: Scale
):
    if not scale.long:
        pytest.skip("lasts as long as the parts' time-outs: part of `make faults`")
    await gets_over(faulty, promise, "Kafka", faulty.proxies.kafka.abandon)


async def gets_over(
    faulty: Faulty, promise: Promise, whose: str, abandon: Callable[[], int]
) -> None:
    """Dead connections under load: API, consumer and relay work again, each within its time-outs."""
    name, load = f"h{uuid.uuid4().hex[:6]}", faulty.load()
    load.make = lambda id_, number: event(f"{name}/app", tag=str(number)) | {"id": id_}
    path = f"/v1/workspaces/{name}/usage"

    async def answers() -> bool:
        try:
            return (await faulty.call("GET", path))[0] == 200
        except aiohttp.ClientError:
            return False  # just being started again

    async def recorded() -> int:
        return int(
            await faulty.pool.fetchval(
                "SELECT coalesce(sum(usage_bytes), 0) FROM workspaces WHERE name = $1", name
            )
        )

    async def published() -> int:
        counted = "SELECT count(published_at) FROM outbox WHERE workspace = $1"
        return int(await faulty.pool.fetchval(counted, name))

    async def all_told() -> bool:
        waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
        return bool(await faulty.pool.fetchval(waiting) == 0)

    async def moves(of: Count) -> bool:
        return await of() > before[of]

    async def beaten(what: str, works: Callable[[], Awaitable[bool]]) -> None:
        await wait_until(works, LONGEST_SECONDS, interval=0.1, what=what)
        promise.worst(f"{whose}: {what}", time.monotonic() - began)

    pids = {part: faulty.stack.pid(part) for part in ("receiver", "consumer", "api")}
    # Slowly: what piles up meanwhile is not what is tried here.
    async with load.running("half-open", workers=2, pause=0.05):
        await load.reaches(100)
        await wait_until(
            lambda: moves_from_nothing(recorded, published), 30, what="all of it works"
        )
        assert abandon() > 0
        began = time.monotonic()
        # What was under way may still arrive; what comes after it has to use another connection.
        await asyncio.sleep(0.5)
        before = {recorded: await recorded(), published: await published()}
        # For the relay, whatever the consumer does.
        await faulty.pool.execute(ONE_MORE, name)
        await asyncio.gather(
            beaten("API answers after", answers),
            beaten("consumer records again after", lambda: moves(recorded)),
            beaten("relay publishes again after", lambda: moves(published)),
        )
    await faulty.settled(120)
    await wait_until(all_told, 120, what="every quota event is published")
    again = sum(faulty.stack.pid(part) != pid for part, pid in pids.items())
    lost = load.acknowledged - await event_ids(faulty.stack.kafka_bootstrap)
    promise.count("parts that had to be started again", again)
    promise.count("acknowledged", len(load.acknowledged))
    promise.count("lost", len(lost))
    assert lost == set()
    assert await faulty.drifted() == []


async def moves_from_nothing(*counts: Count) -> bool:
    """Whether each of them is above 0."""
    return all([await count() > 0 for count in counts])
