"""What is in Kafka: every record of some topics since the test began."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC


@dataclass(frozen=True)
class Record:
    """One Kafka record."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: dict[str, bytes] = field(compare=False)


class Inbox:
    """Reads whole topics from where they ended when the inbox was opened."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    async def read(self, *, source: str | None = None) -> list[Record]:
        """Everything that is durable now and was not read yet, in order per partition.

        With `source` only the records that say so in their header.
        """
        found: list[Record] = []
        ends = await self._consumer.end_offsets(self._partitions)
        for partition, end in ends.items():
            while await self._consumer.position(partition) < end:
                for records in (await self._consumer.getmany(partition, timeout_ms=100)).values():
                    found += [
                        Record(
                            r.topic, r.partition, r.offset, r.key, r.value or b"", dict(r.headers)
                        )
                        for r in records
                    ]
        wanted = None if source is None else source.encode()
        return [r for r in found if wanted is None or r.headers.get("source") == wanted]


@asynccontextmanager
async def inbox(bootstrap: str, *topics: str, from_beginning: bool = False) -> AsyncIterator[Inbox]:
    """An inbox on `topics` (notifications and dead letters, if none is named)."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=16 * 1024 * 1024,
    )
    await consumer.start()
    try:
        partitions = []
        for topic in topics or (NOTIFICATIONS_TOPIC, DEAD_LETTER_TOPIC):
            await consumer._client._wait_on_metadata(topic)
            numbers = consumer.partitions_for_topic(topic) or set()
            partitions += [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        if from_beginning:
            await consumer.seek_to_beginning(*partitions)
        else:
            await consumer.seek_to_end(*partitions)
        yield Inbox(consumer, partitions)
    finally:
        await consumer.stop()


async def event_ids(bootstrap: str) -> set[str]:
    """Ids of all events in the notifications topic, whatever else others have put there."""
    found: set[str] = set()
    async with inbox(bootstrap, NOTIFICATIONS_TOPIC, from_beginning=True) as everything:
        for record in await everything.read():
            with suppress(ValueError, TypeError, KeyError):
                found.add(str(json.loads(record.value)["id"]))
    return found
