"""Digests in use: who reports them, until when, and who has stopped."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from ledger import leases, reading, workspaces
from ledger.leases import MOST_SOURCES, Lease, Reported
from ledger.workspaces import MOST_UNSEEN
from quota import unknown
from quota.bounds import TooMuchError, too_many_workspaces
from quota.near import did_you_mean
from registry.names import format_digest
from runtime.aside import aside
from runtime.postgres import Pool

DIGEST_CHARACTERS = 72
"""About, in an answer."""


class Leases:
    """Keeps what sources report. A source that goes silent blocks deletion until it is retired."""

    def __init__(
        self,
        pool: Pool,
        *,
        default_quota_bytes: int,
        most_digests: int,
        clock: Callable[[], datetime],
    ) -> None:
        """`most_digests`: that all sources of a workspace together may have in use."""
        self._pool = pool
        self._most_digests = most_digests
        self._default_quota_bytes = default_quota_bytes
        self._clock = clock

    async def put(
        self,
        workspace: str,
        source: str,
        digests: Iterable[bytes],
        ttl_s: int,
        among: frozenset[str] | None,
    ) -> dict[str, Any]:
        """Replace what a source has in use, for so many seconds; the workspace may be empty yet.

        What is not known here is taken, and said to be unknown; `among`: the workspaces that the
        caller may hear of. Raises TooMuchError.
        """
        now = self._clock()
        digests = set(digests)
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, workspace, now=now)
            warnings = await unknown.workspace(connection, workspace, view, among)
            known, more = await unknown.digests(connection, workspace, view, digests)
        async with self._pool.acquire() as connection, connection.transaction():
            await workspaces.add_workspace(connection, workspace, self._default_quota_bytes)
            locked = await workspaces.lock_workspace(connection, workspace)
            if locked is None:
                raise too_many_workspaces(workspace, MOST_UNSEEN)
            stands = await leases.reported(connection, locked.id, source)
            self._check(workspace, stands, len(digests))
            lease = await leases.put_lease(
                connection,
                locked.id,
                source,
                digests,
                now=now,
                expires_at=now + timedelta(seconds=ttl_s),
            )
        return {
            **_document(lease, now),
            "known_digests": known,
            "warnings": [*warnings, *more],
        }

    def _check(self, workspace: str, stands: Reported, digests: int) -> None:
        """Refuse what is too much; never a report that names no more than the one that it replaces.

        Who is refused goes stale, and then nothing is deleted: the safe side, and it is said.
        """
        if stands.before is not None and digests <= stands.before:
            return
        mend = f"retire sources that report no more (`registry-quota leases list {workspace}`)"
        if stands.before is None and stands.sources >= MOST_SOURCES:
            raise TooMuchError(
                "source",
                f"{workspace} has {stands.sources} sources already, and may have {MOST_SOURCES}: {mend}",
            )
        if stands.digests + digests > self._most_digests:
            raise TooMuchError(
                "digests",
                f"{digests} of them and {stands.digests} that other sources of {workspace} have in use"
                f" are more than {self._most_digests}: report those of this workspace's images alone,"
                f" {mend}, or set RQ_LEASE_DIGESTS higher",
            )

    async def list(
        self, workspace: str, among: frozenset[str] | None, *, after: str, limit: int
    ) -> tuple[list[dict[str, Any]], str | None, list[str]]:
        """Sources behind `after` by name, stale ones too; where the next page begins; warnings.

        None in a workspace that is not known, and a warning.
        """
        now = self._clock()
        found, more = list[Lease](), False
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, workspace, now=now)
            if view is not None:
                found, more = await leases.page(connection, view.id, after=after, limit=limit)
            warnings = await unknown.workspace(connection, workspace, view, among)
        size = DIGEST_CHARACTERS * sum(len(lease.digests) for lease in found)
        items = await aside(size, lambda: [_document(lease, now) for lease in found])
        return items, found[-1].source if more else None, warnings

    async def retire(self, workspace: str, source: str, among: frozenset[str] | None) -> str | None:
        """Forget a source for good; a sentence when it is not known, with near ones."""
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, workspace, now=self._clock())
            if view is not None and await leases.retire_lease(connection, view.id, source):
                return None
            found = [] if view is None else await leases.leases_of(connection, view.id, ())
            why = f"there is no such source of digests in use in {workspace}"
            if found:
                return why + did_you_mean(source, [lease.source for lease in found])
            about = await unknown.workspace(connection, workspace, view, among)
        return "; ".join([why, *(text.partition(": ")[2] for text in about)])


def _document(lease: Lease, now: datetime) -> dict[str, Any]:
    return {
        "source": lease.source,
        "digests": [format_digest(digest) for digest in lease.digests],
        "reported_at": lease.reported_at,
        "expires_at": lease.expires_at,
        "stale": lease.stale(now),
    }
