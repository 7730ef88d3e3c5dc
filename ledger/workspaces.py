"""Quota, policy and enforcement of a workspace: set under its lock, with the level that follows."""

from datetime import datetime
from typing import Any

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

# What reconciliation found is not cleaned before somebody sets its quota or its policy; any other
# workspace is there for people from now on.
CONFIGURE = """
UPDATE workspaces
SET quota_bytes = coalesce($2, quota_bytes), policy = coalesce($3::jsonb, policy),
    enforcement = coalesce($4, enforcement), level = $5, changed_at = $6,
    configured = configured OR NOT found_by_reconciliation
      OR num_nonnulls($2::int8, $3::jsonb) > 0
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
