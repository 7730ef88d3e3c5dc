"""Looks at log and group from outside: does the log go on, and does somebody read each of its partitions."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiokafka.admin import AIOKafkaAdminClient

from consumer.continuity import find_break, mark_of, to_compare
from ledger.offsets import OLDER_DATABASE, LogBreak, Mark, Position
from runtime import groups
from runtime.kafka import NOTIFICATIONS_TOPIC, connection_options, start
from runtime.settings import Settings
from runtime.topics import Extent, topic_reader

EVERY_SECONDS = 10.0
"""Between two looks while the log is being read."""


class LogBrokenError(Exception):
    """The log is not the one that was being read: take the partitions over anew."""


class UnreadPartitionsError(Exception):
    """The group is at rest and nobody has these partitions: join it so that it shares them out anew."""


class Looked(msgspec.Struct, frozen=True):
    """What a look has shown."""

    extents: dict[int, Extent]
    there: dict[int, dict[int, Mark]]
    """Partition → offset that was asked for → the record there."""
    owned: frozenset[int] | None = None
    """Partitions that a member of the group has; None while that is not known, as in a rebalance."""

    committed: Mapping[int, int] = {}
    """Partition → how far the group had told Kafka that it is; it says so behind the database's commit."""

    @property
    def unread(self) -> frozenset[int]:
        """Partitions that nobody has."""
        return frozenset() if self.owned is None else frozenset(self.extents) - self.owned

    def breaks(self, positions: Mapping[int, Position]) -> list[LogBreak]:
        """Partitions that do not go on where they stood; a partition that is missing tells nothing."""
        found = (
            find_break(number, position, self.extents[number], self.there.get(number, {}))
            for number, position in sorted(positions.items())
            if number in self.extents
        )
        return [item for item in found if item is not None]

    def older(self, positions: Mapping[int, Position]) -> list[LogBreak]:
        """Partitions that had been read further than the database knows: it is an older backup.

        To be asked before we tell the group where we stand.
        """
        found = []
        for number, position in sorted(positions.items()):
            extent, stands = self.extents.get(number), position.next_offset
            # What lies behind the log's end is the log's own break.
            reached = 0 if extent is None else min(self.committed.get(number, 0), extent.end)
            if extent is not None and stands < reached:
                found.append(
                    LogBreak(number, OLDER_DATABASE, stands, extent.first, reached, stands)
                )
        return found

    def confirmed(self, number: int, mark: Mark | None) -> bool:
        """Whether a record stands there as it was read."""
        return mark is not None and self.there.get(number, {}).get(mark.offset) == mark


Look = Callable[[Mapping[int, Position]], Awaitable[Looked]]


async def look(settings: Settings, positions: Mapping[int, Position]) -> Looked:
    """By a connection of its own. Raises KafkaError, OSError or TimeoutError where no broker answers."""
    async with topic_reader(settings, fetch_bytes=1) as reader:
        extents = await reader.extents(NOTIFICATIONS_TOPIC)
        there: dict[int, dict[int, Mark]] = {number: {} for number in positions}
        waiting = {
            number: [mark.offset for mark in to_compare(position, extents[number])]
            for number, position in positions.items()
            if number in extents
        }
        while wanted := {number: offsets.pop() for number, offsets in waiting.items() if offsets}:
            for number, record in (await reader.at(NOTIFICATIONS_TOPIC, wanted)).items():
                there[number][wanted[number]] = mark_of(record)
    admin = AIOKafkaAdminClient(**connection_options(settings))
    try:
        await start(admin, settings)
        group = await groups.describe(admin, settings.kafka_group)
        committed = await groups.committed(admin, settings.kafka_group, NOTIFICATIONS_TOPIC)
    finally:
        await admin.close()
    if group is None or not group.stable:
        return Looked(extents, there, committed=committed)
    owned = {item.partition for item in group.owned if item.topic == NOTIFICATIONS_TOPIC}
    return Looked(extents, there, frozenset(owned), committed)
