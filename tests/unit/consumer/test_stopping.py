"""Who is asked to stop does so at once; what the group has to know is told when it listens."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from consumer.loop import NotificationConsumer
from consumer.metrics import ConsumerMetrics
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.lifecycle import Stopping

PARTITION = TopicPartition(NOTIFICATIONS_TOPIC, 0)


class InARebalance:
    """A client of Kafka that waits for the slowest member of its group, and may refuse what it is told."""

    def __init__(self, *, refuses: int = 0) -> None:
        self.asked = asyncio.Event()
        self.told: list[dict[TopicPartition, int]] = []
        self._refuses = refuses

    def assignment(self) -> set[TopicPartition]:
        return set()

    async def getmany(self, **_options: int) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self._refuses:
            self._refuses -= 1
            raise KafkaError
        self.told.append(dict(offsets))


def consumer_of(kafka: InARebalance, stopping: Stopping) -> NotificationConsumer:
    nothing = cast("Any", None)
    return NotificationConsumer(
        connect=lambda: cast("Any", kafka),
        producer=nothing,
        pool=nothing,
        recorder=nothing,
        metrics=ConsumerMetrics(),
        stopping=stopping,
        cluster_id="test",
        owner="test",
        batch_max_events=10,
        clock=lambda: datetime.now(UTC),
        on_pending=lambda: None,
    )


async def test_who_stops_in_a_rebalance_does_not_wait_for_its_end() -> None:
    """The whole process has six seconds; a group may need ten to notice that a member is gone."""
    kafka, stopping = InARebalance(), Stopping()
    consumer = consumer_of(kafka, stopping)
    running = asyncio.create_task(consumer._consume(cast("Any", kafka)))
    await kafka.asked.wait()
    stopping.set("end of test")
    async with asyncio.timeout(3):
        await running


async def test_what_the_group_did_not_take_it_is_told_again() -> None:
    """Nothing may come any more that would move its offsets, and lag tools would show a lag for ever."""
    kafka = InARebalance(refuses=1)
    consumer = consumer_of(kafka, Stopping())
    consumer._reached[PARTITION] = 5
    for _ in range(3):
        await consumer._move_group(cast("Any", kafka))
    assert kafka.told == [{PARTITION: 5}]
