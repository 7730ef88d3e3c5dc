"""Quota, policy and enforcement of a workspace: set under its lock, with the level that follows."""

from datetime import datetime
from typing import Any

import msgspec

from ledger import history, outbox
from ledger.outbox import NewId
from ledger.record import LevelRule, Workspace, level_event
from runtime.postgres import Connection

MOST_UNSEEN = 10_000
"""Workspaces that are known by name alone: asked for, without an image, and set by nobody."""

# $3 null: whatever there is.
ADD_WORKSPACE = """
INSERT INTO workspaces (name, quota_bytes)
SELECT $1::text, $2::int8
WHERE $3::int8 IS NULL OR EXISTS (SELECT FROM workspaces WHERE name = $1::text) OR (
  SELECT count(*) FROM (
    SELECT FROM workspaces WHERE first_image_at IS NULL AND NOT configured LIMIT $3) AS unseen) < $3
ON CONFLICT (name) DO NOTHING
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


HOLDS = """
SELECT (SELECT count(*) FROM repositories r JOIN manifests m ON m.repository_id = r.id
         WHERE r.workspace_id = $1 AND m.present) AS manifests,
       (SELECT count(*) FROM reservations v
         WHERE v.workspace_id = $1 AND v.expires_at > $2 AND v.settled_by IS NULL) AS reservations,
       (SELECT coalesce(array_agg(l.source ORDER BY l.source), '{}') FROM leases l
         WHERE l.workspace_id = $1) AS lease_sources,
       EXISTS (SELECT FROM cleanup_runs c WHERE c.workspace_id = $1 AND c.state = 'running')
         AS cleaning
"""

# The row stays, as that of a name nobody has pushed to: what is known of its repositories (that an image
# was deleted, too) goes on being right, and the next push finds its place and makes it visible again.
# What was deleted in it stays on record for as long as such records are kept.
HIDE = """
UPDATE workspaces
SET first_image_at = NULL, configured = false, found_by_reconciliation = false, quota_bytes = $2,
    policy = '{}', enforcement = 'advisory', level = 'ok', changed_at = $3
WHERE id = $1
"""

FORGET = (
    "DELETE FROM usage_history WHERE workspace_id = $1",
    "DELETE FROM reservations WHERE workspace_id = $1",
    "DELETE FROM cleanup_plans WHERE workspace_id = $1",
)


class Holds(msgspec.Struct, frozen=True):
    """What keeps a workspace from being removed."""

    manifests: int
    reservations: int
    lease_sources: list[str]
    cleaning: bool


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
    """Make a workspace exist, invisible until it has an image or settings; not one too many of those."""
    await connection.execute(ADD_WORKSPACE, name, quota_bytes, MOST_UNSEEN)


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
    quota_bytes = settings.quota_bytes or default_quota_bytes
    await connection.execute(ADD_WORKSPACE, name, quota_bytes, None)
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


async def remove(
    connection: Connection, name: str, *, default_quota_bytes: int, now: datetime
) -> Holds | None:
    """Take away an empty workspace: its settings, its history, its place in every list.

    What it holds otherwise, and then nothing was changed; None for one that is not known. Call it within
    a transaction: a push waits for the workspace's lock and comes after it.
    """
    workspace = await lock_workspace(connection, name)
    if workspace is None:
        return None
    holds = Holds(*(await connection.fetchrow(HOLDS, workspace.id, now)).values())
    if holds == Holds(0, 0, [], cleaning=False):
        await connection.execute(HIDE, workspace.id, default_quota_bytes, now)
        for statement in FORGET:
            await connection.execute(statement, workspace.id)
    return holds
