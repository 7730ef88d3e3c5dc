"""What was last told of a workspace whose cleanups do not suffice, so that it is told when it changes."""

from datetime import datetime, timedelta

from runtime.postgres import Connection

TOLD_AGAIN_AFTER = timedelta(days=1)

# One statement under the workspace's row lock: of two cleanups that end together one tells it.
TELL_INSUFFICIENT = """
UPDATE workspaces
SET insufficient_reason = $2, insufficient_level = level, insufficient_told_at = $3
WHERE id = $1 AND (
  insufficient_told_at IS NULL OR insufficient_told_at <= $4 OR insufficient_told_at > $3
  OR (insufficient_reason, insufficient_level) IS DISTINCT FROM ($2, level))
RETURNING level
"""

FORGET_INSUFFICIENT = """
UPDATE workspaces
SET insufficient_reason = NULL, insufficient_level = NULL, insufficient_told_at = NULL
WHERE id = $1 AND insufficient_told_at IS NOT NULL
"""


async def tell_insufficient(
    connection: Connection, workspace_id: int, reason: str, *, now: datetime
) -> bool:
    """Whether it is to be told now: reason or level are others than last time, or that is a day ago.

    Within the transaction that tells it, under the workspace's row lock. `reason` is the same for as
    long as the same stands in the way.
    """
    before = now - TOLD_AGAIN_AFTER
    told = await connection.fetchval(TELL_INSUFFICIENT, workspace_id, reason, now, before)
    return told is not None


async def forget_insufficient(connection: Connection, workspace_id: int) -> None:
    """A cleanup has reached its target: the next one that does not is told again."""
    await connection.execute(FORGET_INSUFFICIENT, workspace_id)
