"""Kafka offsets in Postgres, moved in the transaction of their batch and fenced by epochs.

Beside each stands how the log looked there: a log that was put back to an earlier state, or made anew,
is told from the one that was read.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from ledger import outbox, statements
from ledger.outbox import NewId, QuotaEvent
from runtime.postgres import Connection


class StaleOwnerError(Exception):
    """Another consumer owns one of the batch's partitions now; nothing was written. Rejoin the group."""


class Mark(msgspec.Struct, frozen=True):
    """A record as it stood in the log."""

    offset: int
    stored_ms: int
    """When it was given to Kafka: milliseconds since the epoch."""
    digest: bytes
    """Of its key and value."""


class Advance(msgspec.Struct, frozen=True):
    """A batch's progress in one partition."""

    partition: int
    epoch: int
    expected_offset: int
    """Where the partition stood before the batch."""
    head: Mark
    """The batch's last record."""

    @property
    def next_offset(self) -> int:
        """First offset that the batch does not hold."""
        return self.head.offset + 1


class Position(msgspec.Struct, frozen=True):
    """Where a new owner of a partition starts."""

    epoch: int
    next_offset: int
    head: Mark | None = None
    """The last record that was read."""
    anchor: Mark | None = None
    """One that a look at the log has confirmed since: everything up to it is recorded."""
    elsewhere: int | None = None
    """Where the ledger stood in another cluster, when it reads this one for the first time."""


BreakKind = Literal[
    "ends_before", "begins_after", "replaced", "skips", "another_cluster", "older_database"
]
"""What was read is not in the log any more (its end, or its records), what was not read is not, the
records themselves are missing, or Kafka is another. Or the log is the one, and had been read further than
the database knows: an older backup of it was put back."""

OLDER_DATABASE: Final = "older_database"


class LogBreak(msgspec.Struct, frozen=True):
    """A partition whose log does not go on where the ledger stood."""

    partition: int
    kind: BreakKind
    stored_offset: int
    """Where the ledger stood."""
    first_offset: int
    """The log's first record."""
    end_offset: int
    """What its next one will be; of an older database how far the log had been read."""
    resumed_offset: int
    """Where reading goes on. What was read before is counted once."""


async def take_partition(
    connection: Connection,
    *,
    cluster_id: str,
    topic: str,
    partition: int,
    first_offset: int,
    owner: str,
) -> Position:
    """Become the owner: batches of any earlier owner are refused from now on.

    `first_offset` counts where the partition was never read before.
    """
    row = await connection.fetchrow(
        statements.TAKE_PARTITION, cluster_id, topic, partition, first_offset, owner
    )
    elsewhere = None
    if row["head_offset"] is None and row["next_offset"] == first_offset:
        elsewhere = await connection.fetchval(
            statements.OTHER_CLUSTER, cluster_id, topic, partition
        )
    return Position(
        row["epoch"], row["next_offset"], _mark(row, "head"), _mark(row, "anchor"), elsewhere
    )


def _mark(row: Mapping[str, Any], name: str) -> Mark | None:
    offset = row[f"{name}_offset"]
    return None if offset is None else Mark(offset, row[f"{name}_ms"], row[f"{name}_digest"])


POSITIONS = """
SELECT partition, epoch, next_offset, head_offset, head_ms, head_digest, anchor_offset, anchor_ms,
       anchor_digest
FROM consumer_offsets WHERE cluster_id = $1 AND topic = $2
"""


async def positions(connection: Connection, cluster_id: str, topic: str) -> dict[int, Position]:
    """Partition → where the ledger stands."""
    return {
        row["partition"]: Position(
            row["epoch"], row["next_offset"], _mark(row, "head"), _mark(row, "anchor")
        )
        for row in await connection.fetch(POSITIONS, cluster_id, topic)
    }


async def advance(
    connection: Connection, *, cluster_id: str, topic: str, advances: Sequence[Advance]
) -> None:
    """Compare and set, within the batch's transaction. Raises StaleOwnerError."""
    ordered = sorted(advances, key=lambda item: item.partition)
    status: str = await connection.execute(
        statements.ADVANCE_OFFSETS,
        cluster_id,
        topic,
        [item.partition for item in ordered],
        [item.epoch for item in ordered],
        [item.expected_offset for item in ordered],
        [item.next_offset for item in ordered],
        [item.head.stored_ms for item in ordered],
        [item.head.digest for item in ordered],
    )
    if int(status.rsplit(" ", 1)[-1]) != len(ordered):
        raise StaleOwnerError(
            f"partitions {[item.partition for item in ordered]} of {topic} have another owner"
        )


async def reset(
    connection: Connection, *, cluster_id: str, topic: str, partition: int, epoch: int, offset: int
) -> None:
    """Start a partition somewhere else: the log is not the one that was read."""
    await connection.execute(statements.RESET_OFFSET, cluster_id, topic, partition, epoch, offset)


async def keep_anchors(
    connection: Connection,
    *,
    cluster_id: str,
    topic: str,
    anchors: Mapping[int, tuple[int, Mark]],
) -> None:
    """Remember what a look at the log has confirmed: partition → (our epoch, the record)."""
    await connection.execute(
        statements.KEEP_ANCHORS,
        cluster_id,
        topic,
        list(anchors),
        [epoch for epoch, _mark in anchors.values()],
        [mark.offset for _epoch, mark in anchors.values()],
        [mark.stored_ms for _epoch, mark in anchors.values()],
        [mark.digest for _epoch, mark in anchors.values()],
    )


NO_WORKSPACE: Final = 0
"""Owner of events about the log itself, whose subject is the topic."""


async def keep_breaks(
    connection: Connection,
    *,
    cluster_id: str,
    topic: str,
    breaks: Sequence[LogBreak],
    now: datetime,
    new_id: NewId,
) -> None:
    """Remember where the log did not go on, and announce it: a reconciliation is due from now on."""
    await connection.execute(
        statements.ADD_LOG_BREAKS,
        cluster_id,
        topic,
        [item.partition for item in breaks],
        [item.kind for item in breaks],
        [item.stored_offset for item in breaks],
        [item.first_offset for item in breaks],
        [item.end_offset for item in breaks],
        [item.resumed_offset for item in breaks],
        now,
    )
    data = {"topic": topic, "partitions": msgspec.to_builtins(list(breaks))}
    event = QuotaEvent(NO_WORKSPACE, topic, outbox.LOG_BROKEN, data)
    await outbox.add_events(connection, [event], now=now, new_id=new_id)


NEWEST_BREAK = """
SELECT max(found_at) AS found_at, count(*) AS partitions, array_agg(DISTINCT kind) AS kinds
FROM log_breaks WHERE id > $1 AND ($2 OR kind <> 'older_database') HAVING count(*) > 0
"""

RESTORED = """
SELECT max(found_at) FROM log_breaks WHERE kind = 'older_database' AND confirmed_at IS NULL
"""

# Where the log itself broke since, nothing tells how far it has to be read.
NOT_READ_AGAIN = """
SELECT coalesce(sum(b.end_offset - o.next_offset), 0)::int8
FROM log_breaks b JOIN consumer_offsets o USING (cluster_id, topic, partition)
WHERE b.kind = 'older_database' AND b.confirmed_at IS NULL AND o.next_offset < b.end_offset
  AND NOT EXISTS (SELECT FROM log_breaks later WHERE later.id > b.id AND later.topic = b.topic
                  AND later.partition = b.partition)
"""

CONFIRM_RESTORED = """
UPDATE log_breaks SET confirmed_at = $2
WHERE kind = 'older_database' AND confirmed_at IS NULL
  AND id <= (SELECT after_break FROM reconcile_passes
             WHERE id = $1 AND workspace IS NULL AND state = 'finished')
"""


class Broken(msgspec.Struct, frozen=True):
    """Where the log was found not to go on."""

    found_at: datetime
    """UTC; the newest time."""
    partitions: int
    kinds: tuple[BreakKind, ...]


async def broken_after(
    connection: Connection, break_id: int, *, database_too: bool = True
) -> Broken | None:
    """What was found after a break (0: ever). By numbers, because clocks differ.

    `database_too`: also where only the database had been put back.
    """
    row = await connection.fetchrow(NEWEST_BREAK, break_id, database_too)
    return None if row is None else Broken(row["found_at"], row["partitions"], tuple(row["kinds"]))


async def restored_at(connection: Connection) -> datetime | None:
    """When the database was last found to be older than its log (UTC); None once a person confirmed it.

    What only it knew since its backup is gone: leases, settings, mappings, tokens, what undo kept.
    """
    found: datetime | None = await connection.fetchval(RESTORED)
    return found


async def not_read_again(connection: Connection) -> int:
    """Events that an older database had read once, and has not yet read again."""
    events: int = await connection.fetchval(NOT_READ_AGAIN)
    return events


async def confirm_restored(connection: Connection, pass_id: int, *, now: datetime) -> int:
    """A person says that what was lost is in place again; how many partitions that was about.

    Only what the pass over the whole registry, which has finished, began after.
    """
    status: str = await connection.execute(CONFIRM_RESTORED, pass_id, now)
    return int(status.rsplit(" ", 1)[-1])
