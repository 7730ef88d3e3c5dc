"""Digests in use: who reports them, until when, and who has stopped."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from ledger import leases, reading, workspaces
from ledger.leases import Lease
from registry.names import format_digest
from runtime.postgres import Pool


class Leases:
    """Keeps what sources report. A source that goes silent blocks deletion until it is retired."""

    def __init__(
        self, pool: Pool, *, default_quota_bytes: int, clock: Callable[[], datetime]
    ) -> None:
        self._pool = pool
        self._default_quota_bytes = default_quota_bytes
        self._clock = clock

    async def put(
        self, workspace: str, source: str, digests: Iterable[bytes], ttl_s: int
    ) -> dict[str, Any]:
        """Replace what a source has in use, for so many seconds; the workspace may be empty yet."""
        now = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            await workspaces.add_workspace(connection, workspace, self._default_quota_bytes)
            locked = await workspaces.lock_workspace(connection, workspace)
            if locked is None:  # pragma: no cover - it was added a line ago
                raise LookupError(workspace)
            lease = await leases.put_lease(
                connection,
                locked.id,
                source,
                digests,
                now=now,
                expires_at=now + timedelta(seconds=ttl_s),
            )
        return _document(lease, now)

    async def list(self, workspace: str) -> list[dict[str, Any]]:
        """Every source by name, stale ones too; none in a workspace that is not known."""
        now = self._clock()
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, workspace, now=now)
            found = [] if view is None else await leases.leases_of(connection, view.id)
        return [_document(lease, now) for lease in found]

    async def retire(self, workspace: str, source: str) -> bool:
        """Forget a source for good; False when it is not known."""
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, workspace, now=self._clock())
            return view is not None and await leases.retire_lease(connection, view.id, source)


def _document(lease: Lease, now: datetime) -> dict[str, Any]:
    return {
        "source": lease.source,
        "digests": [format_digest(digest) for digest in lease.digests],
        "reported_at": lease.reported_at,
        "expires_at": lease.expires_at,
        "stale": lease.stale(now),
    }
