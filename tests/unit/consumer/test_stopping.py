"""What the loop waits for, and what not: a rebalance, a full disk."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
from aiokafka import TopicPartition

from consumer.log_watch import Looked
from consumer.loop import NotificationConsumer
from consumer.metrics import ConsumerMetrics
from ledger.offsets import StaleOwnerError
from runtime.lifecycle import Stopping


class InARebalance:
    """A client of Kafka that waits for the slowest member of its group."""

    def __init__(self, *, lost: int = 0) -> None:
        self.asked = asyncio.Event()
        for_ever = asyncio.get_running_loop().create_future()
        self._fetcher = SimpleNamespace(_fetch_task=for_ever)
        self._coordinator = SimpleNamespace(_coordination_task=for_ever)
        self._client = SimpleNamespace(_sync_task=for_ever)
        self._lost = lost

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def subscribe(self, *_topics: object, **_options: object) -> None:
        pass

    def assignment(self) -> set[TopicPartition]:
        return set()

    async def getmany(self, **_options: int) -> None:
        if self._lost:
            self._lost -= 1
            raise StaleOwnerError
        self.asked.set()
        await asyncio.Event().wait()


async def never(_positions: object) -> Looked:
    raise TimeoutError


def consumer_of(kafka: InARebalance, stopping: Stopping) -> NotificationConsumer:
    nothing = cast("Any", None)
    return NotificationConsumer(
        connect=lambda **_how: cast("Any", kafka),
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
        look=never,
    )


async def test_who_stops_in_a_rebalance_does_not_wait_for_its_end() -> None:
    """The whole process has six seconds; a group may need ten to notice that a member is gone."""
    kafka, stopping = InARebalance(), Stopping()
    consumer = consumer_of(kafka, stopping)
    running = asyncio.create_task(consumer.run())
    await kafka.asked.wait()
    stopping.set("end of test")
    async with asyncio.timeout(3):
        await running


async def test_a_batch_that_was_lost_is_late_no_longer() -> None:
    """Else the age of the oldest event under way grows until the lane has another batch."""
    kafka, stopping = InARebalance(lost=1), Stopping()
    consumer = consumer_of(kafka, stopping)
    consumer._metrics.oldest_ms[0] = 1
    running = asyncio.create_task(consumer.run())
    await kafka.asked.wait()
    late = consumer._metrics.registry.get_sample_value("registry_quota_consumer_lag_seconds")
    stopping.set("end of test")
    await running
    assert late == 0


async def test_who_waits_for_room_in_the_database_says_so_as_long_as_it_waits() -> None:
    """Its partitions stand still, and the database answers: a watchdog would take that for a stall."""
    said: list[bool] = []

    class Waits(Stopping):
        async def sleep(self, _seconds: float) -> bool:
            said.append(consumer.no_room)
            return False

    outcomes: list[Exception | None] = [asyncpg.DiskFullError("no space left"), OSError(), None]

    async def work() -> str:
        assert not consumer.no_room
        if (error := outcomes.pop(0)) is not None:
            raise error
        return "done"

    consumer = consumer_of(InARebalance(), Waits())
    assert await consumer._while_database_is_away(work) == "done"
    assert said == [True, False]
