"""Cleanup runs and what they did: recorded before the first delete, kept as the audit.

A running run has one owner at a time: its epoch rises with each, and whoever does not hold the
newest one may send no further DELETE. A run without a heartbeat may be taken over.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from ledger import statements
from ledger.packing import pack_digests, unpack_digests
from runtime.postgres import Connection

ONE_RUNNING = "cleanup_runs_one_running_idx"

ADD_RUN = """
INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes, usage_before,
                          promised_bytes, incoming_bytes, reserved_bytes, incoming_digests, plan_id,
                          started_at, heartbeat_at)
VALUES ($1, $2, 'running', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)
"""

# The next hook and the sweep may ask at once: the row lock and the heartbeat let one of them in.
TAKE_OVER = """
UPDATE cleanup_runs
SET epoch = epoch + 1, owner = $2, heartbeat_at = $3::timestamptz
WHERE workspace_id = $1 AND state = 'running' AND heartbeat_at < $3::timestamptz - $4::interval
RETURNING id, epoch, cause, incoming_bytes, reserved_bytes, incoming_digests, plan_id
"""

STALE = """
SELECT w.name FROM cleanup_runs c JOIN workspaces w ON w.id = c.workspace_id
WHERE c.state = 'running' AND c.heartbeat_at < $1::timestamptz - $2::interval ORDER BY w.name
"""

ADD_ITEMS = """
INSERT INTO cleanup_items (run_id, position, unit, repository_id, digest, app, tags, code, why,
                           promised_bytes, push_ns, media_type, aged_ns)
SELECT $1, position, unit, repository_id, digest, app, tags::jsonb, code, why, promised_bytes,
       push_ns, media_type, nullif(aged_ns, -1)
FROM unnest($2::int[], $3::int[], $4::int[], $5::bytea[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::int8[], $11::int8[], $12::text[], $13::int8[])
  AS given(position, unit, repository_id, digest, app, tags, code, why, promised_bytes, push_ns,
           media_type, aged_ns)
"""

HEARTBEAT = """
UPDATE cleanup_runs SET heartbeat_at = $3 WHERE id = $1 AND epoch = $2 AND state = 'running'
RETURNING id
"""

# After it the manifest may be gone, whatever becomes of us: who takes over asks the registry. What it
# will free is written down, too: the registry's own event may empty the account before we do.
ABOUT_TO_DELETE = """
UPDATE cleanup_items i
SET state = 'deleting', document = coalesce($4, i.document), media_type = coalesce($5, i.media_type),
    freed_bytes = $6
FROM cleanup_runs c
WHERE i.run_id = $1 AND i.position = $3 AND i.state = 'planned'
  AND c.id = i.run_id AND c.epoch = $2 AND c.state = 'running'
RETURNING i.position
"""

FINISH_ITEM = """
UPDATE cleanup_items
SET state = $3, freed_bytes = $4, failure = $5, done_at = $6, gone_ns = greatest(gone_ns, $7),
    unsure_bytes = CASE WHEN $3 <> 'deleted' THEN coalesce($8, unsure_bytes) END
WHERE run_id = $1 AND position = $2 AND state NOT IN ('deleted', 'restored')
"""

# Not carried out so far: it may be yet.
PLAN_AGAIN = """
UPDATE cleanup_items SET state = 'planned', unsure_bytes = freed_bytes, freed_bytes = 0
WHERE run_id = $1 AND position = $2 AND state = 'deleting'
"""

SKIP_REST = """
UPDATE cleanup_items SET state = 'skipped', failure = $2, done_at = $3
WHERE run_id = $1 AND state = 'planned'
"""

FINISH_RUN = """
UPDATE cleanup_runs
SET state = $3, usage_after = $4, message = $5, finished_at = $6, heartbeat_at = $6,
    target_reached = $7, warnings = $8::json,
    freed_bytes = (SELECT coalesce(sum(i.freed_bytes), 0) FROM cleanup_items i WHERE i.run_id = $1)
WHERE id = $1 AND epoch = $2 AND state = 'running'
RETURNING id
"""

RUNNING = "SELECT id FROM cleanup_runs WHERE workspace_id = $1 AND state = 'running'"

_RUN = """
SELECT c.id, c.state, c.cause, c.quota_bytes, c.usage_before, c.usage_after, c.promised_bytes,
       c.freed_bytes, c.target_reached, c.warnings, c.message, c.plan_id, c.started_at, c.finished_at
FROM cleanup_runs c
"""
_BEFORE = """
($3::uuid IS NULL OR (c.started_at, c.id) < (
  SELECT b.started_at, b.id FROM cleanup_runs b WHERE b.id = $3 AND b.workspace_id = $1))
"""
RUNS = (
    f"{_RUN} WHERE c.workspace_id = $1 AND {_BEFORE} ORDER BY c.started_at DESC, c.id DESC LIMIT $2"
)
RUN = _RUN + " WHERE c.workspace_id = $1 AND c.id = $2"

ITEMS = """
SELECT i.position, r.name AS repository, i.app, i.digest, i.tags, i.code, i.why, i.promised_bytes,
       i.freed_bytes, i.state, i.failure, i.done_at
FROM cleanup_items i JOIN repositories r ON r.id = i.repository_id
WHERE i.run_id = $1 ORDER BY i.position
"""

RECORDED_ITEMS = """
SELECT i.position, i.unit, i.repository_id, r.registry, r.name AS repository, i.digest, i.app,
       i.tags, i.code, i.why, i.promised_bytes, i.push_ns, coalesce(i.media_type, '') AS media_type,
       coalesce(i.aged_ns, -1) AS aged_ns, i.state, i.freed_bytes, i.failure, i.document
FROM cleanup_items i JOIN repositories r ON r.id = i.repository_id
WHERE i.run_id = $1 ORDER BY i.position
"""


class MappedAwayError(Exception):
    """A repository that was planned for is another workspace's by now: plan anew, by its present rules."""


class AlreadyRunningError(Exception):
    """A cleanup of this workspace is running; wait for its result."""


class Item(msgspec.Struct, frozen=True):
    """A manifest that a run is going to delete, and why."""

    position: int
    unit: int
    """Items of one number go together: an image first, then its children and referrers."""
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
    aged_ns: int = -1
    """Its age when it was planned: what is put back is as old as it was. -1: not known."""

    @property
    def key(self) -> tuple[str, str, bytes]:
        """What names it in the workspace, as the planner does."""
        return (self.registry, self.repository, self.digest)


class RecordedItem(msgspec.Struct, frozen=True):
    """An item as a run left it."""

    item: Item
    state: str
    freed_bytes: int
    failure: str | None
    document: bytes | None


class Run(msgspec.Struct, frozen=True):
    """A run as it begins. Bytes."""

    id: UUID
    workspace_id: int
    cause: str
    owner: str
    quota_bytes: int
    usage_before: int
    promised_bytes: int
    incoming_bytes: int = 0
    reserved_bytes: int = 0
    incoming_digests: frozenset[bytes] = frozenset()
    plan_id: UUID | None = None


class Lease(msgspec.Struct, frozen=True):
    """The right to carry a run on, for as long as nobody has a newer epoch."""

    run_id: UUID
    epoch: int = 1


class TakenOver(msgspec.Struct, frozen=True):
    """A run whose process ended before it did, and for what it was begun."""

    lease: Lease
    cause: str
    incoming_bytes: int
    reserved_bytes: int
    incoming_digests: frozenset[bytes]
    plan_id: UUID | None


async def begin_run(
    connection: Connection, run: Run, repository_ids: Collection[int], *, now: datetime
) -> Lease:
    """Record that a run begins, within a transaction; from then on nobody maps its repositories.

    Raises AlreadyRunningError, and MappedAwayError when one of them is another workspace's by now.
    """
    await connection.fetch(statements.LOCK_WORKSPACES, [run.workspace_id])
    owners = await connection.fetch(statements.WORKSPACES_OF_REPOSITORIES, list(repository_ids))
    if any(row["workspace_id"] != run.workspace_id for row in owners):
        raise MappedAwayError
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
            run.incoming_bytes,
            run.reserved_bytes,
            pack_digests(sorted(run.incoming_digests)),
            run.plan_id,
            now,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == ONE_RUNNING:
            raise AlreadyRunningError from error
        raise
    return Lease(run.id)


async def take_over(
    connection: Connection,
    workspace_id: int,
    *,
    owner: str,
    now: datetime,
    stale_after: timedelta,
) -> TakenOver | None:
    """Become the owner of the workspace's run when its own has given no sign of life."""
    row = await connection.fetchrow(TAKE_OVER, workspace_id, owner, now, stale_after)
    if row is None:
        return None
    return TakenOver(
        Lease(row["id"], row["epoch"]),
        row["cause"],
        row["incoming_bytes"],
        row["reserved_bytes"],
        frozenset(unpack_digests(row["incoming_digests"] or b"")),
        row["plan_id"],
    )


async def stale_workspaces(
    connection: Connection, *, now: datetime, stale_after: timedelta
) -> list[str]:
    """Workspaces with a run that waits to be taken over."""
    return [row["name"] for row in await connection.fetch(STALE, now, stale_after)]


async def add_items(connection: Connection, run_id: UUID, items: Sequence[Item]) -> None:
    """Record what a run is going to delete, before it does."""
    await connection.execute(
        ADD_ITEMS,
        run_id,
        [item.position for item in items],
        [item.unit for item in items],
        [item.repository_id for item in items],
        [item.digest for item in items],
        [item.app for item in items],
        [msgspec.json.encode(item.tags).decode() for item in items],
        [item.code for item in items],
        [item.why for item in items],
        [item.promised_bytes for item in items],
        [item.push_ns for item in items],
        [item.media_type for item in items],
        [item.aged_ns for item in items],
    )


async def heartbeat(connection: Connection, lease: Lease, now: datetime) -> bool:
    """Say that the run lives; False when somebody took it over and it must delete no more."""
    return await connection.fetchval(HEARTBEAT, lease.run_id, lease.epoch, now) is not None


async def about_to_delete(
    connection: Connection,
    lease: Lease,
    position: int,
    *,
    document: bytes | None,
    media_type: str | None,
    frees_bytes: int,
) -> bool:
    """Keep the manifest's bytes and say that its DELETE comes next; False when it must not."""
    return (
        await connection.fetchval(
            ABOUT_TO_DELETE, lease.run_id, lease.epoch, position, document, media_type, frees_bytes
        )
        is not None
    )


async def finish_item(
    connection: Connection,
    run_id: UUID,
    position: int,
    *,
    state: str,
    freed_bytes: int = 0,
    failure: str | None = None,
    gone_ns: int = -1,
    unsure_bytes: int | None = None,
    now: datetime,
) -> None:
    """Record what became of an item: deleted, failed or skipped. Deleted stays deleted.

    `unsure_bytes`: no answer came to its DELETE, which would free so many; see `ledger.late`.
    """
    await connection.execute(
        FINISH_ITEM, run_id, position, state, freed_bytes, failure, now, gone_ns, unsure_bytes
    )


async def skip_rest(connection: Connection, run_id: UUID, reason: str, now: datetime) -> None:
    """Say of everything that was planned and not begun why it stays."""
    await connection.execute(SKIP_REST, run_id, reason, now)


async def plan_again(connection: Connection, run_id: UUID, position: int) -> None:
    """The DELETE that was about to be sent was not carried out, so far."""
    await connection.execute(PLAN_AGAIN, run_id, position)


async def finish_run(
    connection: Connection,
    lease: Lease,
    *,
    state: str,
    usage_after: int,
    target_reached: bool,
    warnings: Sequence[str],
    message: str | None,
    now: datetime,
) -> bool:
    """Close a run: finished, or stopped with the reason. False when it is somebody else's by now."""
    found = await connection.fetchval(
        FINISH_RUN,
        lease.run_id,
        lease.epoch,
        state,
        usage_after,
        message,
        now,
        target_reached,
        msgspec.json.encode(list(warnings)).decode(),
    )
    return found is not None


async def running(connection: Connection, workspace_id: int) -> UUID | None:
    """The run that is under way in a workspace."""
    found: UUID | None = await connection.fetchval(RUNNING, workspace_id)
    return found


async def runs_of(
    connection: Connection, workspace_id: int, limit: int, *, before: UUID | None = None
) -> list[dict[str, Any]]:
    """Runs, newest first; those that began before a run."""
    return [_run(row) for row in await connection.fetch(RUNS, workspace_id, limit, before)]


async def run_of(connection: Connection, workspace_id: int, run_id: UUID) -> dict[str, Any] | None:
    """One run with its items."""
    row = await connection.fetchrow(RUN, workspace_id, run_id)
    if row is None:
        return None
    items = [dict(item) for item in await connection.fetch(ITEMS, run_id)]
    for item in items:
        item["tags"] = msgspec.json.decode(item["tags"])
    return {**_run(row), "items": items}


def _run(row: asyncpg.Record) -> dict[str, Any]:
    return {**dict(row), "warnings": msgspec.json.decode(row["warnings"])}


async def items_of(connection: Connection, run_id: UUID) -> list[RecordedItem]:
    """What a run was going to do and how far it came."""
    return [recorded_item(row) for row in await connection.fetch(RECORDED_ITEMS, run_id)]


def recorded_item(row: asyncpg.Record) -> RecordedItem:
    """A row of `RECORDED_ITEMS`."""
    values = dict(row)
    values["tags"] = tuple(msgspec.json.decode(values["tags"]))
    item = Item(**{name: values[name] for name in Item.__struct_fields__})
    return RecordedItem(
        item, values["state"], values["freed_bytes"], values["failure"], values["document"]
    )
