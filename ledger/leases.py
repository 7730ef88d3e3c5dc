"""Leases: digests that a source says are in use. Past its time a source is stale, not forgotten."""

from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec

from registry.names import format_digest, parse_digest
from runtime.aside import aside
from runtime.postgres import Connection

MOST_SOURCES = 1000
"""Sources that a workspace may have."""

_PAGE_DIGESTS = 10_000
"""Digests that a page of sources has about; a source that names more is a page of its own."""


class Lease(msgspec.Struct, frozen=True):
    """What one source last reported. Times are UTC."""

    source: str
    digests: tuple[bytes, ...]
    reported_at: datetime
    expires_at: datetime

    def stale(self, now: datetime) -> bool:
        """Whether it should have reported again: what it uses now is not known."""
        return self.expires_at <= now


class Reported(msgspec.Struct, frozen=True):
    """How much is in use in a workspace, apart from one source, and what that one said before."""

    sources: int
    digests: int
    before: int | None
    """Digests that the one source has now; None: it is new."""


LEASES = """
SELECT source, digests, reported_at, expires_at FROM leases WHERE workspace_id = $1 ORDER BY source
"""

# A workspace may have a hundred thousand digests in use; who asks about some reads those alone.
LEASES_NAMING = """
SELECT source,
       CASE WHEN cardinality($2::text[]) = 0 THEN '[]' ELSE coalesce(
         (SELECT jsonb_agg(d) FROM jsonb_array_elements_text(digests) AS d WHERE d = ANY($2)), '[]')
       END AS digests, reported_at, expires_at
FROM leases WHERE workspace_id = $1 ORDER BY source
"""

# Sources behind $2; those that would make the page too long come without their digests.
LEASES_PAGE = """
SELECT source, CASE WHEN number = 1 OR until <= $4 THEN digests END AS digests,
       reported_at, expires_at
FROM (
  SELECT *, row_number() OVER (ORDER BY source) AS number,
         sum(jsonb_array_length(digests)) OVER (ORDER BY source) AS until
  FROM (SELECT * FROM leases WHERE workspace_id = $1 AND source > $2 ORDER BY source LIMIT $3) AS next
) AS page ORDER BY source
"""

REPORTED = """
SELECT count(*) FILTER (WHERE source <> $2),
       coalesce(sum(jsonb_array_length(digests)) FILTER (WHERE source <> $2), 0)::int8,
       max(jsonb_array_length(digests)) FILTER (WHERE source = $2)
FROM leases WHERE workspace_id = $1
"""

# A report replaces the source's previous one wholly.
PUT_LEASE = """
INSERT INTO leases (workspace_id, source, digests, reported_at, expires_at)
VALUES ($1, $2, $3::jsonb, $4, $5)
ON CONFLICT (workspace_id, source) DO UPDATE
SET digests = excluded.digests, reported_at = excluded.reported_at, expires_at = excluded.expires_at
"""

RETIRE_LEASE = "DELETE FROM leases WHERE workspace_id = $1 AND source = $2 RETURNING source"


async def leases_of(
    connection: Connection, workspace_id: int, among: Collection[bytes] | None = None
) -> list[Lease]:
    """What is in use, by source, stale sources included; with `among` no other digests than these."""
    if among is None:
        rows = await connection.fetch(LEASES, workspace_id)
    else:
        named = [format_digest(digest) for digest in among]
        rows = await connection.fetch(LEASES_NAMING, workspace_id, named)
    return await _read([tuple(row.values()) for row in rows])


async def page(
    connection: Connection, workspace_id: int, *, after: str, limit: int
) -> tuple[list[Lease], bool]:
    """Sources behind `after`, by name, and whether there are more: at most `limit`, fewer long ones."""
    found = await connection.fetch(LEASES_PAGE, workspace_id, after, limit + 1, _PAGE_DIGESTS)
    rows = [tuple(row.values()) for row in found[:limit] if row["digests"] is not None]
    return await _read(rows), len(found) > len(rows)


async def reported(connection: Connection, workspace_id: int, source: str) -> Reported:
    """How much is in use beside what a source says. Under the workspace's lock it stays so."""
    return Reported(*(await connection.fetchrow(REPORTED, workspace_id, source)).values())


async def put_lease(
    connection: Connection,
    workspace_id: int,
    source: str,
    digests: Iterable[bytes],
    *,
    now: datetime,
    expires_at: datetime,
) -> Lease:
    """Replace what a source has in use; each digest once."""
    lease = Lease(source, tuple(sorted(set(digests))), now, expires_at)
    names = msgspec.json.encode([format_digest(digest) for digest in lease.digests]).decode()
    await connection.execute(PUT_LEASE, workspace_id, source, names, now, expires_at)
    return lease


async def retire_lease(connection: Connection, workspace_id: int, source: str) -> bool:
    """Forget a source and what it had in use; False when it is not known."""
    return await connection.fetchval(RETIRE_LEASE, workspace_id, source) is not None


async def _read(rows: list[tuple[str, str, datetime, datetime]]) -> list[Lease]:
    return await aside(sum(len(row[1]) for row in rows), lambda: [_lease(*row) for row in rows])


def _lease(source: str, digests: str, reported_at: datetime, expires_at: datetime) -> Lease:
    names: list[str] = msgspec.json.decode(digests)
    return Lease(source, tuple(map(parse_digest, names)), reported_at, expires_at)
