"""Records between the broker and the ledger: fetched, and not taken by a lane yet.

They are taken out of aiokafka as they come, because it asks a broker for nothing while a record of any
of its partitions lies there: one slow batch would keep the events of all others away.
"""

import asyncio
import contextlib

from aiokafka import ConsumerRecord, TopicPartition

Batch = dict[TopicPartition, list[ConsumerRecord]]

_LEAST_BYTES = 1024
"""What a record counts for at least: one without a value takes memory as well."""


class Waiting:
    """What waits, by partition. A partition is with one lane at a time, so its order stays."""

    def __init__(self, most_bytes: int) -> None:
        """From `most_bytes` of values on it is `full`: fetch no more."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._records: Batch = {}
        self._taken: set[TopicPartition] = set()
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether no more should be fetched now."""
        return self._bytes >= self._most_bytes

    def add(self, partition: TopicPartition, records: list[ConsumerRecord]) -> None:
        """Records that follow those of the partition that wait already."""
        self._records.setdefault(partition, []).extend(records)
        self._bytes += _bytes(records)
        self._changed.set()

    def take(self, most: int) -> Batch:
        """Up to so many records, of partitions that are with no lane, which they are with now.

        What has waited longest comes first. Whoever takes them calls `done`.
        """
        batch: Batch = {}
        for partition in [item for item in self._records if item not in self._taken]:
            if most <= 0:
                break
            records = self._records.pop(partition)
            batch[partition] = records[:most]
            if rest := records[most:]:
                self._records[partition] = rest  # behind the others
            most -= len(batch[partition])
            self._bytes -= _bytes(batch[partition])
        self._taken.update(batch)
        if batch:
            self._changed.set()
        return batch

    def done(self, batch: Batch) -> None:
        """The partitions of a batch are with no lane any more."""
        self._taken.difference_update(batch)
        self._changed.set()

    def drop(self, partition: TopicPartition) -> None:
        """Forget what waits of a partition."""
        self._bytes -= _bytes(self._records.pop(partition, []))

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()
        self._bytes = 0

    async def change(self, seconds: float) -> None:
        """Return when something came, was taken or is done, or after so many seconds."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


def _bytes(records: list[ConsumerRecord]) -> int:
    return sum(max(len(record.value or b""), _LEAST_BYTES) for record in records)
