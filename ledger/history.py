"""How usage went over time: at most one row a workspace and minute, thinned out as it grows old.

A row is written in the transaction that changes usage or quota, under the workspace's lock, and only
when one of them changed; later changes of the same minute overwrite it. `at` is the minute's begin.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from runtime.postgres import Connection

SAMPLE = """
INSERT INTO usage_history (workspace_id, at, usage_bytes, quota_bytes)
SELECT workspace_id, date_trunc('minute', $4::timestamptz, 'UTC'), usage_bytes, quota_bytes
FROM unnest($1::int[], $2::int8[], $3::int8[]) AS given(workspace_id, usage_bytes, quota_bytes)
ON CONFLICT (workspace_id, at) DO UPDATE
SET usage_bytes = excluded.usage_bytes, quota_bytes = excluded.quota_bytes
"""

# The last row of each step that ends at $2 + k * $4, and the last one at or before $2.
SAMPLES = """
(SELECT at, usage_bytes, quota_bytes FROM usage_history
 WHERE workspace_id = $1 AND at <= $2 ORDER BY at DESC LIMIT 1)
UNION ALL
(SELECT DISTINCT ON (date_bin($4::interval, at - interval '1 microsecond', $2::timestamptz))
        at, usage_bytes, quota_bytes
 FROM usage_history WHERE workspace_id = $1 AND at > $2 AND at <= $3
 ORDER BY date_bin($4::interval, at - interval '1 microsecond', $2::timestamptz), at DESC)
ORDER BY at
"""

BEGAN = "SELECT min(at) FROM usage_history WHERE workspace_id = $1"

# Of each hour its last row stays.
THIN = """
DELETE FROM usage_history old
WHERE old.at < $1::timestamptz AND old.at >= $1::timestamptz - $2::interval AND EXISTS (
  SELECT FROM usage_history later
  WHERE later.workspace_id = old.workspace_id AND later.at > old.at
    AND later.at < date_trunc('hour', old.at, 'UTC') + interval '1 hour')
"""

# One process at a time.
TRY_LEAD = "SELECT pg_try_advisory_xact_lock(5921, 11)"

_THINNED_AT_A_TIME = timedelta(days=31)


class Account(Protocol):
    """A workspace whose row is locked. Bytes."""

    id: int
    usage_bytes: int
    quota_bytes: int


class Sample(msgspec.Struct, frozen=True):
    """Usage and quota in bytes, as they were from `at` on (UTC, to the minute)."""

    at: datetime
    usage_bytes: int
    quota_bytes: int


async def sample(connection: Connection, changed: Iterable[Account], now: datetime) -> None:
    """Remember what workspaces use now. Needs their row locks."""
    ordered = sorted(changed, key=lambda account: account.id)
    if ordered:
        await connection.execute(
            SAMPLE,
            [account.id for account in ordered],
            [account.usage_bytes for account in ordered],
            [account.quota_bytes for account in ordered],
            now,
        )


async def samples(
    connection: Connection, workspace_id: int, *, start: datetime, end: datetime, step: timedelta
) -> list[Sample]:
    """What a reader needs who looks at `start`, `start + step`, … `end`, oldest first."""
    rows = await connection.fetch(SAMPLES, workspace_id, start, end, step)
    return [Sample(*row.values()) for row in rows]


async def began(connection: Connection, workspace_id: int) -> datetime | None:
    """From when on it is known what a workspace used; None: nothing is."""
    moment: datetime | None = await connection.fetchval(BEGAN, workspace_id)
    return moment


async def thin(connection: Connection, before: datetime) -> None:
    """Keep the last row of each hour before a moment. Does nothing while another process is at it."""
    async with connection.transaction():
        if await connection.fetchval(TRY_LEAD):
            await connection.execute(THIN, before, _THINNED_AT_A_TIME)
