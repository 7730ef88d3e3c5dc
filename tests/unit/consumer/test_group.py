"""The group's own offsets follow the ledger's, and trouble with them is nobody else's."""

import asyncio
import gc
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import IllegalGenerationError, KafkaError

from consumer.group import GroupOffsets
from runtime.kafka import NOTIFICATIONS_TOPIC

PARTITION = TopicPartition(NOTIFICATIONS_TOPIC, 0)


class Group:
    """Refuses what it is told for so many times."""

    def __init__(self, refuses: int = 0) -> None:
        self.told: list[dict[TopicPartition, int]] = []
        self._refuses = refuses

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if self._refuses:
            self._refuses -= 1
            raise KafkaError
        self.told.append(offsets)


class Rebalanced:
    """Answers late, that the group has moved on; who asked may have gone. As aiokafka does it."""

    def __init__(self) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def commit(self, _offsets: dict[TopicPartition, int]) -> None:
        await asyncio.shield(asyncio.create_task(self._request()))

    async def _request(self) -> None:
        self.asked.set()
        await self.answers.wait()
        raise IllegalGenerationError


async def test_what_the_group_did_not_take_it_is_told_again() -> None:
    """Nothing may come any more that would move its offsets, and lag tools would show a lag for ever."""
    offsets, group = GroupOffsets(), Group(refuses=1)
    offsets.reached[PARTITION] = 5
    for _ in range(3):
        assert await offsets.move(group)
    assert group.told == [{PARTITION: 5}]


async def test_a_late_refusal_is_no_error_that_nobody_waited_for() -> None:
    """A consumer that was frozen is told so when its lanes have ended already."""
    complaints: list[dict[str, Any]] = []
    gc.collect()  # what other tests left behind is not complained of here
    asyncio.get_running_loop().set_exception_handler(lambda _loop, told: complaints.append(told))
    offsets, group = GroupOffsets(), Rebalanced()
    offsets.reached[PARTITION] = 5
    moving = asyncio.create_task(offsets.move(group))
    await group.asked.wait()
    moving.cancel()
    await asyncio.wait({moving})
    group.answers.set()
    assert await offsets.move(group)
    await offsets.forget()
    gc.collect()
    assert complaints == []
    assert offsets.reached == {}


async def test_what_is_still_under_way_ends_with_the_consumer() -> None:
    offsets, group = GroupOffsets(), Rebalanced()
    offsets.reached[PARTITION] = 5
    moving = asyncio.create_task(offsets.move(group))
    await group.asked.wait()
    await offsets.forget()
    assert await moving


async def test_a_move_that_loses_a_cancellation_ends_with_the_consumer_all_the_same() -> None:
    """Kafka's client tries again at a bad moment: the consumer would wait for it before it rejoins."""

    class Loses:
        cancelled = 0

        async def commit(self, _offsets: dict[TopicPartition, int]) -> None:
            while self.cancelled < 2:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled += 1

    offsets = GroupOffsets()
    offsets.reached[PARTITION] = 5
    moving = asyncio.create_task(offsets.move(Loses()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with asyncio.timeout(3):
        await offsets.forget()
    await moving
