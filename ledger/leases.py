"""Leases: digests that a source says are in use. Past its time a source is stale, not forgotten."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from registry.names import format_digest, parse_digest
from runtime.postgres import Connection


class Lease(msgspec.Struct, frozen=True):
    """What one source last reported. Times are UTC."""

    source: str
    digests: tuple[bytes, ...]
    reported_at: datetime
    expires_at: datetime

    def stale(self, now: datetime) -> bool:
        """Whether it should have reported again: what it uses now is not known."""
        return self.expires_at <= now


LEASES = """
SELECT source, digests, reported_at, expires_at FROM leases WHERE workspace_id = $1 ORDER BY source
"""

# A report replaces the source's previous one wholly.
PUT_LEASE = """
INSERT INTO leases (workspace_id, source, digests, reported_at, expires_at)
VALUES ($1, $2, $3::jsonb, $4, $5)
ON CONFLICT (workspace_id, source) DO UPDATE
SET digests = excluded.digests, reported_at = excluded.reported_at, expires_at = excluded.expires_at
"""

RETIRE_LEASE = "DELETE FROM leases WHERE workspace_id = $1 AND source = $2 RETURNING source"


async def leases_of(connection: Connection, workspace_id: int) -> list[Lease]:
    """What is in use, by source, stale sources included."""
    return [
        Lease(
            row["source"],
            tuple(parse_digest(text) for text in msgspec.json.decode(row["digests"])),
            row["reported_at"],
            row["expires_at"],
        )
        for row in await connection.fetch(LEASES, workspace_id)
    ]


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
