"""Quota, policy and enforcement of a workspace: set under its lock, with the level that follows."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from ledger import history, outbox
from ledger.outbox import NewId
from ledger.record import LevelRule, Workspace, level_event
from runtime.postgres import Connection

ADD_WORKSPACE = """
INSERT INTO workspaces (name, quota_bytes) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING
"""

LOCK_WORKSPACE = """
SELECT id, name, quota_bytes, usage_bytes, level, first_image_at IS NOT NULL AS has_images
FROM workspaces WHERE name = $1 FOR UPDATE
"""

CONFIGURE = """
UPDATE workspaces
SET quota_bytes = coalesce($2, quota_bytes), policy = coalesce($3::jsonb, policy),
    enforcement = coalesce($4, enforcement), level = $5, configured = true, changed_at = $6
WHERE id = $1
"""


class Settings(msgspec.Struct, frozen=True):
    """What somebody sets; None leaves a part as it is."""

    quota_bytes: int | None = None
    policy: dict[str, Any] | None = None
    enforcement: str | None = None


async def lock_workspace(connection: Connection, name: str) -> Workspace | None:
    """Take a workspace's row lock for the rest of the transaction."""
    row = await connection.fetchrow(LOCK_WORKSPACE, name)
    return None if row is None else Workspace(*row.values())


async def add_workspace(connection: Connection, name: str, quota_bytes: int) -> None:
    """Make sure that a workspace exists; invisible until it has an image or settings."""
    await connection.execute(ADD_WORKSPACE, name, quota_bytes)


async def configure(
    connection: Connection,
    name: str,
    settings: Settings,
    *,
    default_quota_bytes: int,
    level_of: LevelRule,
    now: datetime,
    new_id: NewId,
) -> None:
    """Set parts of a workspace, known or new; announces the level when that changes.

    Call it within a transaction. The schema refuses a quota of 0 or below.
    """
    await add_workspace(connection, name, settings.quota_bytes or default_quota_bytes)
    workspace = await lock_workspace(connection, name)
    if workspace is None:  # pragma: no cover - it was added above, and workspaces are never deleted
        raise LookupError(name)
    workspace.quota_bytes = settings.quota_bytes or workspace.quota_bytes
    level = level_of(workspace.level, workspace.usage_bytes, workspace.quota_bytes)
    events = [] if level == workspace.level else [level_event(workspace, level)]
    policy = None if settings.policy is None else msgspec.json.encode(settings.policy).decode()
    await connection.execute(
        CONFIGURE,
        workspace.id,
        settings.quota_bytes,
        policy,
        settings.enforcement,
        level,
        now,
    )
    await history.sample(connection, [workspace], now)
    await outbox.add_events(connection, events, now=now, new_id=new_id)


# -- reservations ------------------------------------------------------------------------------


class Reservation(msgspec.Struct, frozen=True):
    """Bytes set aside for a build until `expires_at` (UTC)."""

    id: UUID
    build_id: str
    app: str | None
    bytes: int
    created_at: datetime
    expires_at: datetime


# The same build replaces its own reservation.
RESERVE = """
INSERT INTO reservations (id, workspace_id, build_id, app, bytes, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (workspace_id, build_id) DO UPDATE
SET app = excluded.app, bytes = excluded.bytes, expires_at = excluded.expires_at
RETURNING id, build_id, app, bytes, created_at, expires_at
"""

RESERVED = """
SELECT least(coalesce(sum(bytes), 0), 4611686018427387904)::int8 FROM reservations
WHERE workspace_id = $1 AND expires_at > $2 AND build_id IS DISTINCT FROM $3
"""

RESERVATIONS = """
SELECT id, build_id, app, bytes, created_at, expires_at FROM reservations
WHERE workspace_id = $1 AND expires_at > $2 ORDER BY created_at, id
"""

RELEASE = "DELETE FROM reservations WHERE workspace_id = $1 AND id = $2 RETURNING id"

RELEASE_BUILD = "DELETE FROM reservations WHERE workspace_id = $1 AND build_id = $2"

FORGET_EXPIRED = "DELETE FROM reservations WHERE workspace_id = $1 AND expires_at <= $2"


async def reserved_bytes(
    connection: Connection, workspace_id: int, *, now: datetime, except_build: str | None
) -> int:
    """What other builds have reserved, in bytes."""
    return int(await connection.fetchval(RESERVED, workspace_id, now, except_build))


async def reserve(
    connection: Connection, workspace_id: int, reservation: Reservation
) -> Reservation:
    """Set bytes aside, under the workspace's lock; the build keeps the id it had."""
    await connection.execute(FORGET_EXPIRED, workspace_id, reservation.created_at)
    row = await connection.fetchrow(
        RESERVE,
        reservation.id,
        workspace_id,
        reservation.build_id,
        reservation.app,
        reservation.bytes,
        reservation.created_at,
        reservation.expires_at,
    )
    return Reservation(*row.values())


async def reservations(
    connection: Connection, workspace_id: int, *, now: datetime
) -> list[Reservation]:
    """What is reserved now, oldest first."""
    return [
        Reservation(*row.values())
        for row in await connection.fetch(RESERVATIONS, workspace_id, now)
    ]


async def release_build(connection: Connection, workspace_id: int, build_id: str) -> None:
    """Give back what a build has reserved: it was denied."""
    await connection.execute(RELEASE_BUILD, workspace_id, build_id)


async def release(connection: Connection, workspace_id: int, reservation_id: UUID) -> bool:
    """Give reserved bytes back; False when there was no such reservation."""
    return await connection.fetchval(RELEASE, workspace_id, reservation_id) is not None
