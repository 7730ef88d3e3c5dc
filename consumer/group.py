"""The group's own offsets in Kafka, behind those in Postgres: only people and lag tools look at these."""

import asyncio
from typing import Final, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from runtime.lifecycle import Stopping, end
from runtime.logs import get_logger

log = get_logger(__name__)

EVERY: Final = 1.0
"""Seconds between two moves of them, and the longest that one is waited for."""


class Commits(Protocol):
    """Moves a group's offsets (`AIOKafkaConsumer`)."""

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Raises KafkaError."""


class GroupOffsets:
    """Tells the group how far the ledger is; what it did not take it is told again."""

    def __init__(self) -> None:
        self.reached: dict[TopicPartition, int] = {}
        """Next offsets that the group does not know yet."""
        self._moving: asyncio.Task[None] | None = None

    async def keep_near(self, kafka: Commits, stopping: Stopping) -> None:
        """Move them now and then."""
        while not await stopping.sleep(EVERY):
            await self.move(kafka)

    async def move(self, kafka: Commits) -> bool:
        """Move them, and wait for it for a while. Whether nothing is under way then."""
        if self._moving is None and self.reached:
            self._moving = asyncio.create_task(self._commit(kafka, dict(self.reached)))
        if self._moving is not None:
            # Not cancelled when that takes too long, or when its caller is: aiokafka goes on with the
            # request, and how that ends would be told as an error that nobody waited for.
            await asyncio.wait({self._moving}, timeout=EVERY)
            if self._moving.done():
                self._moving = None
        return self._moving is None

    async def forget(self) -> None:
        """The consumer has ended: nothing more is told by it."""
        self.reached.clear()
        if self._moving is not None:
            await end([self._moving])
            self._moving = None

    async def _commit(self, kafka: Commits, reached: dict[TopicPartition, int]) -> None:
        try:
            await kafka.commit(reached)
        except KafkaError as error:
            log.info("group_offsets_not_moved", reason=type(error).__name__)
            return  # the next time: nothing may come that would move them
        for partition, offset in reached.items():
            if self.reached.get(partition) == offset:
                del self.reached[partition]
