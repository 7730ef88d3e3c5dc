"""Does the log go on where the ledger left it? PURE.

An offset alone says nothing: data that was put back to a snapshot, a topic that was made anew and
retention that overtook us all have offsets, too. So the last record that was read and an earlier one
are compared with what stands there now.
"""

import hashlib
from collections.abc import Mapping

from aiokafka import ConsumerRecord

from ledger.offsets import BreakKind, LogBreak, Mark, Position
from runtime.topics import Extent

DIGEST_BYTES = 16


def mark_of(record: ConsumerRecord) -> Mark:
    """A record as it is recognised again."""
    key, value = record.key or b"", record.value or b""
    digest = hashlib.blake2b(len(key).to_bytes(8, "big"), digest_size=DIGEST_BYTES)
    digest.update(key)
    digest.update(value)
    return Mark(record.offset, int(record.timestamp), digest.digest())


def to_compare(position: Position, extent: Extent) -> list[Mark]:
    """What was read and would have to stand in the log now."""
    marks = {mark for mark in (position.anchor, position.head) if mark is not None}
    return sorted(
        (mark for mark in marks if extent.first <= mark.offset < extent.end),
        key=lambda mark: mark.offset,
    )


def find_break(
    partition: int, position: Position, extent: Extent, there: Mapping[int, Mark]
) -> LogBreak | None:
    """Where the log does not go on; `there` has the records at the offsets to compare, as far as they were read.

    Reading goes on behind the last record that is known to be the one that was read, else at the
    beginning: what was recorded is not counted twice, and what was not is not left out.
    """
    compared = to_compare(position, extent)
    same = [mark for mark in compared if there.get(mark.offset) == mark]
    other = [mark for mark in compared if there.get(mark.offset, mark) != mark]
    kind: BreakKind
    if position.elsewhere is not None:
        kind = "another_cluster"
    elif position.next_offset > extent.end:
        kind = "ends_before"
    elif other:
        kind = "replaced"
    elif position.next_offset < extent.first:
        kind = "begins_after"
    else:
        return None
    stored = position.next_offset if position.elsewhere is None else position.elsewhere
    below = other[0].offset if other else extent.end
    resumed = max((mark.offset + 1 for mark in same if mark.offset < below), default=extent.first)
    return LogBreak(partition, kind, stored, extent.first, extent.end, resumed)
