"""What an operator has to know at once: silent sources, cleanups under way. Reads only."""

from datetime import datetime
from typing import Any

from runtime.postgres import Connection

STALE_LEASES = """
SELECT w.name AS workspace, l.source, l.expires_at, count(*) OVER () AS total
FROM leases l JOIN workspaces w ON w.id = l.workspace_id
WHERE l.expires_at <= $1 ORDER BY l.expires_at, w.name, l.source LIMIT $2
"""

COUNT_RUNNING = "SELECT count(*) FROM cleanup_runs WHERE state = 'running'"

# A breaker that refuses leaves no run: what is here began, and something ended it.
STOPPED_CLEANUPS = """
SELECT w.name AS workspace, c.state, c.message, c.finished_at
FROM cleanup_runs c JOIN workspaces w ON w.id = c.workspace_id
WHERE c.state IN ('stopped', 'abandoned') AND c.started_at > $1 ORDER BY c.finished_at DESC LIMIT $2
"""


async def stale_leases(
    connection: Connection, *, now: datetime, limit: int
) -> tuple[int, list[dict[str, Any]]]:
    """Sources of digests in use that have not reported in time: nothing is deleted there.

    How many there are, and those that have been silent for longest.
    """
    rows = [dict(row) for row in await connection.fetch(STALE_LEASES, now, limit)]
    totals = {row.pop("total") for row in rows}
    return max(totals, default=0), rows


async def running_cleanups(connection: Connection) -> int:
    """How many cleanups are under way."""
    return int(await connection.fetchval(COUNT_RUNNING))


async def stopped_cleanups(
    connection: Connection, *, since: datetime, limit: int
) -> list[dict[str, Any]]:
    """Cleanups that something ended before their time, the newest first."""
    return [dict(row) for row in await connection.fetch(STOPPED_CLEANUPS, since, limit)]
