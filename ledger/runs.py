"""Cleanup runs and what they did: recorded before the first delete, kept as the audit."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from runtime.postgres import Connection

ONE_RUNNING = "cleanup_runs_one_running_idx"

ADD_RUN = """
INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes, usage_before,
                          promised_bytes, started_at, heartbeat_at)
VALUES ($1, $2, 'running', $3, $4, $5, $6, $7, $8, $8)
"""

# A crashed run must not block its workspace: without a heartbeat it is given up, its items stay
# as the audit of what it did.
ABANDON_STALE = """
UPDATE cleanup_runs
SET state = 'abandoned', finished_at = $2::timestamptz, message = 'its process ended before it did'
WHERE workspace_id = $1 AND state = 'running' AND heartbeat_at < $2::timestamptz - $3::interval
"""

ADD_ITEMS = """
INSERT INTO cleanup_items (run_id, position, repository_id, digest, app, tags, code, why,
                           promised_bytes, push_ns, media_type)
SELECT $1, position, repository_id, digest, app, tags::jsonb, code, why, promised_bytes, push_ns,
       media_type
FROM unnest($2::int[], $3::int[], $4::bytea[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::int8[], $10::int8[], $11::text[])
  AS given(position, repository_id, digest, app, tags, code, why, promised_bytes, push_ns, media_type)
"""

HEARTBEAT = (
    "UPDATE cleanup_runs SET heartbeat_at = $2 WHERE id = $1 AND state = 'running' RETURNING id"
)

KEEP_DOCUMENT = """
UPDATE cleanup_items SET document = $3, media_type = $4 WHERE run_id = $1 AND position = $2
"""

FINISH_ITEM = """
UPDATE cleanup_items SET state = $3, freed_bytes = $4, failure = $5, done_at = $6
WHERE run_id = $1 AND position = $2
"""

FINISH_RUN = """
UPDATE cleanup_runs
SET state = $2, freed_bytes = $3, usage_after = $4, message = $5, finished_at = $6, heartbeat_at = $6
WHERE id = $1 AND state = 'running'
"""

RUNNING = "SELECT id FROM cleanup_runs WHERE workspace_id = $1 AND state = 'running'"

RUNS = """
SELECT id, state, cause, quota_bytes, usage_before, usage_after, promised_bytes, freed_bytes,
       message, started_at, finished_at
FROM cleanup_runs WHERE workspace_id = $1 ORDER BY started_at DESC, id LIMIT $2
"""

RUN = """
SELECT id, state, cause, quota_bytes, usage_before, usage_after, promised_bytes, freed_bytes,
       message, started_at, finished_at
FROM cleanup_runs WHERE workspace_id = $1 AND id = $2
"""

ITEMS = """
SELECT i.position, r.name AS repository, i.app, i.digest, i.tags, i.code, i.why, i.promised_bytes,
       i.freed_bytes, i.state, i.failure, i.done_at
FROM cleanup_items i JOIN repositories r ON r.id = i.repository_id
WHERE i.run_id = $1 ORDER BY i.position
"""


class AlreadyRunningError(Exception):
    """A cleanup of this workspace is running; wait for its result."""


class Item(msgspec.Struct, frozen=True):
    """A manifest that a run is going to delete, and why."""

    position: int
    repository_id: int
    registry: str
    repository: str
    digest: bytes
    app: str
    tags: tuple[str, ...]
    code: str
    why: str
    promised_bytes: int
    push_ns: int
    media_type: str

    @property
    def key(self) -> tuple[str, str, bytes]:
        """What names it in the workspace, as the planner does."""
        return (self.registry, self.repository, self.digest)


class Run(msgspec.Struct, frozen=True):
    """A run as it begins. Bytes."""

    id: UUID
    workspace_id: int
    cause: str
    owner: str
    quota_bytes: int
    usage_before: int
    promised_bytes: int


async def begin_run(
    connection: Connection,
    run: Run,
    *,
    now: datetime,
    stale_after: timedelta,
) -> None:
    """Record that a run begins, within a transaction. Raises AlreadyRunningError."""
    await connection.execute(ABANDON_STALE, run.workspace_id, now, stale_after)
    try:
        await connection.execute(
            ADD_RUN,
            run.id,
            run.workspace_id,
            run.cause,
            run.owner,
            run.quota_bytes,
            run.usage_before,
            run.promised_bytes,
            now,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == ONE_RUNNING:
            raise AlreadyRunningError from error
        raise


async def add_items(connection: Connection, run_id: UUID, items: Sequence[Item]) -> None:
    """Record what a run is going to delete, before it does."""
    await connection.execute(
        ADD_ITEMS,
        run_id,
        [item.position for item in items],
        [item.repository_id for item in items],
        [item.digest for item in items],
        [item.app for item in items],
        [msgspec.json.encode(item.tags).decode() for item in items],
        [item.code for item in items],
        [item.why for item in items],
        [item.promised_bytes for item in items],
        [item.push_ns for item in items],
        [item.media_type for item in items],
    )


async def heartbeat(connection: Connection, run_id: UUID, now: datetime) -> bool:
    """Say that the run lives; False when it was given up meanwhile and must delete no more."""
    return await connection.fetchval(HEARTBEAT, run_id, now) is not None


async def keep_document(
    connection: Connection, run_id: UUID, position: int, document: bytes, media_type: str
) -> None:
    """Keep a manifest's bytes before it is deleted, for undo."""
    await connection.execute(KEEP_DOCUMENT, run_id, position, document, media_type)


async def finish_item(
    connection: Connection,
    run_id: UUID,
    position: int,
    *,
    state: str,
    freed_bytes: int = 0,
    failure: str | None = None,
    now: datetime,
) -> None:
    """Record what became of an item: deleted, failed or skipped."""
    await connection.execute(FINISH_ITEM, run_id, position, state, freed_bytes, failure, now)


async def finish_run(
    connection: Connection,
    run_id: UUID,
    *,
    state: str,
    freed_bytes: int,
    usage_after: int,
    message: str | None,
    now: datetime,
) -> None:
    """Close a run: finished, or stopped with the reason."""
    await connection.execute(FINISH_RUN, run_id, state, freed_bytes, usage_after, message, now)


async def running(connection: Connection, workspace_id: int) -> UUID | None:
    """The run that is under way in a workspace."""
    found: UUID | None = await connection.fetchval(RUNNING, workspace_id)
    return found


async def runs_of(connection: Connection, workspace_id: int, limit: int) -> list[dict[str, Any]]:
    """Runs, newest first."""
    return [dict(row) for row in await connection.fetch(RUNS, workspace_id, limit)]


async def run_of(connection: Connection, workspace_id: int, run_id: UUID) -> dict[str, Any] | None:
    """One run with its items."""
    row = await connection.fetchrow(RUN, workspace_id, run_id)
    if row is None:
        return None
    items = [dict(item) for item in await connection.fetch(ITEMS, run_id)]
    for item in items:
        item["tags"] = msgspec.json.decode(item["tags"])
    return {**dict(row), "items": items}
