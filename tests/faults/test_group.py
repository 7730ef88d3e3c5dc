"""Partitions that are added while a member with a name of its own is away, or at rest, are read, too."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from runtime.kafka import NOTIFICATIONS_TOPIC
from tests.support.own_kafka import World
from tests.support.promises import Promise
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("rebalance")


async def add_partitions(world: World, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=world.kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_partitions({NOTIFICATIONS_TOPIC: NewPartitions(total_count=count)})
    finally:
        await admin.close()


@pytest.mark.parametrize("away", [True, False], ids=["while it is away", "after it came back"])
async def test_partitions_that_are_added_after_a_quick_restart_are_read(
    world: World, away: bool, promise: Promise
):
    async with world.consumer():
        await world.push(3)
        await world.recorded()
    if away:
        await add_partitions(world, 4)
    async with world.consumer() as consumer:
        await wait_until(lambda: consumer.ready, 20, what="it has its share")
        if not away:
            await add_partitions(world, 4)
        await world.push(2, keys=16)
        await world.recorded()
        assert consumer.owned == {0, 1, 2, 3}
        assert not consumer.unread
        promise.count("partitions added that nobody was told of", 3)
