"""Kafka's data goes back to an earlier day, is made anew or has gone by age: what nobody saw is recorded."""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from consumer.loop import NotificationConsumer
from devstack.config import default_cache_dir
from ledger.offsets import broken_after
from quota.events import DATA
from runtime.kafka import NOTIFICATIONS_TOPIC, cluster_id, create_topics
from runtime.postgres import Pool
from runtime.settings import Settings
from tests.support import ledgers
from tests.support.consumers import consuming, event, publish
from tests.support.own_kafka import OwnKafka
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("log-breaks")

IMAGE = 5100


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnKafka]:
    kafka = OwnKafka(tmp_path_factory.mktemp("kafka") / "node", default_cache_dir(os.environ))
    await kafka.start()
    yield kafka
    await kafka.stop()


class World:
    """A broker with empty topics, a ledger, and pushes of images that nobody shares."""

    def __init__(self, kafka: OwnKafka, pool: Pool) -> None:
        self.kafka = kafka
        self.pool = pool
        self.settings = Settings(
            kafka_bootstrap=kafka.bootstrap,
            kafka_partitions=1,
            kafka_group=f"test-{uuid.uuid4().hex}",
        )
        self.pushed = 0
        self.workspace = f"w{uuid.uuid4().hex[:8]}"

    async def push(self, count: int) -> None:
        values = [
            event(f"{self.workspace}/app", tag=str(self.pushed + number)) for number in range(count)
        ]
        await publish(self.settings, self.workspace, *values)
        self.pushed += count

    @asynccontextmanager
    async def consumer(self) -> AsyncIterator[NotificationConsumer]:
        cluster = await cluster_id(self.settings)
        async with consuming(self.settings, self.pool, cluster=cluster) as consumer:
            yield consumer

    async def recorded(self, images: int | None = None) -> None:
        """Return when everything that was ever pushed is in the account, once."""
        wanted = (self.pushed if images is None else images) * IMAGE

        async def all_of_it() -> bool:
            usage = (await ledgers.usage(self.pool)).get(self.workspace)
            assert usage == wanted, (usage, wanted)
            return True

        await wait_until(all_of_it, 40, what="all is recorded")
        assert await ledgers.usage(self.pool) == await ledgers.recount(self.pool)

    async def breaks(self) -> list[dict[str, Any]]:
        rows = await self.pool.fetch(
            "SELECT kind, stored_offset, first_offset, end_offset, resumed_offset FROM log_breaks ORDER BY id"
        )
        return [dict(row) for row in rows]

    async def make_topic_anew(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            if NOTIFICATIONS_TOPIC in await admin.list_topics():
                await admin.delete_topics([NOTIFICATIONS_TOPIC])

            async def gone() -> bool:
                return NOTIFICATIONS_TOPIC not in await admin.list_topics()

            await wait_until(gone, 20, what="the topic is gone")
        finally:
            await admin.close()
        await create_topics(self.settings)

    async def forget_before(self, offset: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            wanted = {TopicPartition(NOTIFICATIONS_TOPIC, 0): RecordsToDelete(before_offset=offset)}
            await admin.delete_records(wanted)
        finally:
            await admin.close()


@pytest_asyncio.fixture(loop_scope="session")
async def world(broker: OwnKafka, pool: Pool) -> World:
    made = World(broker, pool)
    await made.make_topic_anew()
    return made


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
