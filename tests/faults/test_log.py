"""Kafka's data goes back to an earlier day, is made anew or has gone by age: what nobody saw is recorded."""

from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from ledger.offsets import broken_after
from quota.events import DATA
from runtime.kafka import create_topics
from tests.support.own_kafka import World
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("log-breaks")


async def told(world: World, *kinds: str) -> dict[str, Any]:
    """The one break that was found, as it was kept, announced, and as it makes a reconciliation due."""
    [found] = await world.breaks()
    kind = found["kind"]
    assert kind in kinds
    [row] = await world.pool.fetch("SELECT * FROM outbox WHERE type LIKE '%log.broken.v1'")
    data = msgspec.json.decode(row["data"])
    DATA[row["type"]].model_validate(data)
    assert [item["kind"] for item in data["partitions"]] == [kind]
    async with world.pool.acquire() as connection:
        assert await broken_after(connection, 0) is not None
    return found


@pytest.mark.parametrize("new", [10, 40], ids=["shorter than what was read", "grown past it"])
@pytest.mark.parametrize("alive", [False, True], ids=["found at the start", "found while it reads"])
async def test_data_put_back_to_a_snapshot_loses_no_push(
    world: World, new: int, alive: bool, promise: Promise, scale: Scale
):
    if (new == 10) != alive and not scale.long:
        pytest.skip("a third and a fourth restart of Kafka: part of `make faults`")
    async with AsyncExitStack() as running:
        consumer = await running.enter_async_context(world.consumer())
        await world.push(20)
        await world.recorded()
        await world.kafka.stop()
        await world.kafka.keep()
        await world.kafka.start()
        await world.push(30)
        await world.recorded()
        if not alive:
            await running.aclose()
        await world.kafka.stop()
        await world.kafka.put_back()
        await world.kafka.start()
        await world.push(new)
        if not alive:
            consumer = await running.enter_async_context(world.consumer())
        await world.recorded()
        # Who reads meanwhile may look before it has grown.
        shorter = new == 10 or alive
        found = await told(
            world, *(["ends_before"] if shorter else []), *(["replaced"] if new == 40 else [])
        )
        assert found["stored_offset"] == 50
        assert found["resumed_offset"] <= 20
        promise.count("breaks of the log found", 1)
        promise.count("pushes passed over", 0)

        # And goes on as ever.
        await world.push(5)
        await world.recorded()
        assert len(await world.breaks()) == 1
        assert consumer.owned == {0}


@pytest.mark.parametrize("alive", [False, True], ids=["found at the start", "found while it reads"])
async def test_a_topic_made_anew_that_has_grown_past_us_is_read_from_its_beginning(
    world: World, alive: bool
):
    async with AsyncExitStack() as running:
        await running.enter_async_context(world.consumer())
        await world.push(10)
        await world.recorded()
        if not alive:
            await running.aclose()
        await world.make_topic_anew()
        await world.push(25)
        if not alive:
            await running.enter_async_context(world.consumer())
        await world.recorded()
    assert (await world.breaks())[-1]["resumed_offset"] == 0


async def test_what_went_by_age_before_it_was_read_is_named(world: World):
    async with world.consumer():
        await world.push(10)
        await world.recorded()
    await world.push(20)
    await world.forget_before(25)
    async with world.consumer():
        await world.recorded(15)
    found = await told(world, "begins_after")
    assert (found["stored_offset"], found["resumed_offset"]) == (10, 25)


async def test_another_cluster_is_read_from_its_beginning_and_named(world: World):
    async with world.consumer():
        await world.push(10)
        await world.recorded()
    await world.kafka.stop()
    await world.kafka.wipe()
    await world.kafka.start()
    await create_topics(world.settings)
    await world.push(5)
    async with world.consumer():
        await world.recorded()
    found = await told(world, "another_cluster")
    assert (found["stored_offset"], found["resumed_offset"]) == (10, 0)
    async with world.consumer():
        await world.push(1)
        await world.recorded()
    assert len(await world.breaks()) == 1


async def test_a_log_that_goes_on_is_never_called_broken(world: World):
    for _ in range(3):
        async with world.consumer() as consumer:
            await world.push(7)
            await world.recorded()
            consumer._doubt.set()

            async def looked() -> bool:
                return consumer._owned[0].anchor == consumer._owned[0].head

            await wait_until(looked, 20, what="the log was looked at")
    assert await world.breaks() == []
