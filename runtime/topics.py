"""Looking into topics without belonging to a group: how far they reach, and what stands where."""

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import UnknownTopicOrPartitionError

from runtime.consumers import end_consumer
from runtime.kafka import connection_options, start
from runtime.settings import MESSAGE_MAX_BYTES, Settings

READ_TIMEOUT = 30.0
"""Seconds without a single record after which reading gives up."""


class Extent(msgspec.Struct, frozen=True):
    """A stretch of a partition: from `first` up to, but not with, `end`."""

    first: int
    end: int

    def __len__(self) -> int:
        """Offsets in it; of our topics each is a record."""
        return max(0, self.end - self.first)


class TopicReader:
    """Reads any topic anywhere; commits nothing."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def extents(self, topic: str) -> dict[int, Extent]:
        """Partition → what it holds now.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            KafkaError: no broker answered.
        """
        client = self._consumer._client  # noqa: SLF001 - no public way without an assignment
        # All topics: asked for by name, a missing one would be created by brokers that do so.
        numbers = (await client.fetch_all_metadata()).partitions_for_topic(topic)
        if not numbers:
            raise UnknownTopicOrPartitionError(topic)
        await client.add_topic(topic)
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        starts = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        return {item.partition: Extent(starts[item], ends[item]) for item in partitions}

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Where partitions of topics that `extents` has found end now: one request a broker."""
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(list(partitions))
        return found

    async def at(self, topic: str, offsets: Mapping[int, int]) -> dict[int, ConsumerRecord]:
        """Partition → the record at or behind its offset, of those that were read in a moment.

        Raises KafkaError when no broker answers.
        """
        found: dict[int, ConsumerRecord] = {}
        waiting = {TopicPartition(topic, number): offset for number, offset in offsets.items()}
        self._consumer.assign(list(waiting))
        for partition, offset in waiting.items():
            self._consumer.seek(partition, offset)
        try:
            while waiting:
                fetched = await self._consumer.getmany(*waiting, timeout_ms=500)
                if not fetched:
                    break
                for partition, records in fetched.items():
                    found[partition.partition] = records[0]
                    del waiting[partition]
        finally:
            self._consumer.unsubscribe()  # else it would go on fetching
        return found

    async def read(self, topic: str, wanted: Mapping[int, Extent]) -> AsyncIterator[ConsumerRecord]:
        """The records of these stretches, in order within a partition.

        Raises:
            KafkaError: no broker answers.
            TimeoutError: nothing came for a while.
        """
        left = {
            TopicPartition(topic, number): extent for number, extent in wanted.items() if extent
        }
        if not left:
            return
        self._consumer.assign(list(left))
        for partition, extent in left.items():
            self._consumer.seek(partition, extent.first)
        until = time.monotonic() + READ_TIMEOUT
        while left:
            fetched = await self._consumer.getmany(*left, timeout_ms=500)
            for partition, records in fetched.items():
                for record in records:
                    if record.offset < left[partition].end:
                        yield record
            if fetched:
                until = time.monotonic() + READ_TIMEOUT
            elif time.monotonic() > until:
                raise TimeoutError(f"{topic}: nothing came for {READ_TIMEOUT:g} s")
            for partition in list(left):
                # A gap (compaction, a transaction's marker) leaves no record at the very end.
                if await self._consumer.position(partition) >= left[partition].end:
                    del left[partition]


@asynccontextmanager
async def topic_reader(
    settings: Settings, *, fetch_bytes: int = MESSAGE_MAX_BYTES
) -> AsyncIterator[TopicReader]:
    """A reader that is connected. Raises KafkaError when no broker answers.

    `fetch_bytes`: at most so much of a partition at a time, and always one batch of records.
    """
    consumer = AIOKafkaConsumer(
        **connection_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=fetch_bytes,
        request_timeout_ms=5_000,
    )
    try:
        await start(consumer, settings)
        yield TopicReader(consumer)
    finally:
        await end_consumer(consumer)
