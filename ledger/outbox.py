"""Quota events: written in the transaction that changes the account, published by the relay.

Rows of one workspace are written under its row lock, so their ids follow the order of commits;
the relay takes unpublished rows by id. What has been published stays for `GET …/events`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from runtime import tracing
from runtime.postgres import Connection

IMAGE_RECORDED = "io.registryquota.image.recorded.v1"
IMAGE_REMOVED = "io.registryquota.image.removed.v1"
LEVEL_CHANGED = "io.registryquota.usage.level_changed.v1"
CLEANUP_FINISHED = "io.registryquota.cleanup.finished.v1"
CLEANUP_INSUFFICIENT = "io.registryquota.cleanup.insufficient.v1"
BUILD_DENIED = "io.registryquota.build.denied.v1"
DRIFT_DETECTED = "io.registryquota.drift.detected.v1"
SIZE_MISMATCH = "io.registryquota.size.mismatch.v1"
IMAGE_UNREADABLE = "io.registryquota.image.unreadable.v1"
LOG_BROKEN = "io.registryquota.log.broken.v1"
GC_VERIFIED = "io.registryquota.gc.verified.v1"

NewId = Callable[[], UUID]


class QuotaEvent(msgspec.Struct, frozen=True):
    """An event of one workspace, before it has an id."""

    workspace_id: int
    workspace: str
    type: str
    data: dict[str, Any]


_COLUMNS = (
    "event_id",
    "workspace_id",
    "workspace",
    "type",
    "data",
    "occurred_at",
    "traceparent",
)


async def add_events(
    connection: Connection, events: Sequence[QuotaEvent], *, now: datetime, new_id: NewId
) -> None:
    """Announce events when the current transaction commits. Needs the workspaces' row locks.

    Each carries the trace that it comes from, when there is one.
    """
    if not events:
        return
    await connection.copy_records_to_table(
        "outbox",
        records=[
            (
                new_id(),
                event.workspace_id,
                event.workspace,
                event.type,
                msgspec.json.encode(event.data).decode(),
                now,
                tracing.traceparent(
                    (event.data.get("repository"), event.data.get("digest")), event.workspace
                ),
            )
            for event in events
        ],
        columns=_COLUMNS,
    )


class OutboxRow(msgspec.Struct, frozen=True):
    """An event that waits for publication."""

    id: int
    event_id: UUID
    workspace: str
    type: str
    data: str
    """JSON text."""
    occurred_at: datetime
    traceparent: str | None = None


# By id, never "id > last": a transaction that took an earlier id may commit later.
UNPUBLISHED = """
SELECT id, event_id, workspace, type, data, occurred_at, traceparent
FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT $1
"""

MARK_PUBLISHED = "UPDATE outbox SET published_at = $2 WHERE id = ANY($1::int8[])"

OLDEST_UNPUBLISHED = "SELECT min(id) FROM outbox WHERE published_at IS NULL"

# One relay at a time: two would break the order within a workspace.
TRY_LEAD = "SELECT pg_try_advisory_lock(5921, 1)"


async def unpublished(connection: Connection, limit: int) -> list[OutboxRow]:
    """The oldest rows that nobody has published yet."""
    return [OutboxRow(*row.values()) for row in await connection.fetch(UNPUBLISHED, limit)]


async def mark_published(connection: Connection, ids: Sequence[int], now: datetime) -> None:
    """Remember that Kafka has these rows."""
    await connection.execute(MARK_PUBLISHED, list(ids), now)


async def oldest_unpublished(connection: Connection) -> int | None:
    """The row that is published next; None when nothing waits."""
    oldest: int | None = await connection.fetchval(OLDEST_UNPUBLISHED)
    return oldest


async def try_lead(connection: Connection) -> bool:
    """Become the one relay for as long as this connection lives; False when another is it."""
    return bool(await connection.fetchval(TRY_LEAD))
