"""Kafka offsets in Postgres, moved in the transaction of their batch and fenced by epochs."""

from collections.abc import Sequence

import msgspec

from ledger import statements
from runtime.postgres import Connection


class StaleOwnerError(Exception):
    """Another consumer owns one of the batch's partitions now; nothing was written. Rejoin the group."""


class Advance(msgspec.Struct, frozen=True):
    """A batch's progress in one partition."""

    partition: int
    epoch: int
    expected_offset: int
    """Where the partition stood before the batch."""
    next_offset: int
    """First offset that the batch does not hold."""


class Position(msgspec.Struct, frozen=True):
    """Where a new owner of a partition starts."""

    epoch: int
    next_offset: int


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
    return Position(row["epoch"], row["next_offset"])


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
    )
    if int(status.rsplit(" ", 1)[-1]) != len(ordered):
        raise StaleOwnerError(
            f"partitions {[item.partition for item in ordered]} of {topic} have another owner"
        )


async def reset(
    connection: Connection, *, cluster_id: str, topic: str, partition: int, epoch: int, offset: int
) -> None:
    """Start a partition somewhere else (the log no longer has the offset that was stored)."""
    await connection.execute(statements.RESET_OFFSET, cluster_id, topic, partition, epoch, offset)
