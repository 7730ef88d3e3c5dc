"""Questions about workspaces, and settings: one method a question, one transaction each."""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec

from ledger import garbage, reading, reservations, workspaces
from ledger import images as image_rows
from ledger.images import Cursor
from ledger.reading import WorkspaceView
from ledger.record import LevelRule
from ledger.reservations import MOST_OPEN, Place, Reservation
from ledger.workspaces import MOST_UNSEEN, Holds, Settings
from quota import images, unknown
from quota.bounds import TooMuchError, too_many_workspaces
from quota.listing import describe_page
from quota.policy import DEFAULT_POLICY, Policy, parse_policy
from quota.usage import untagged
from quota.words import plural
from registry.refs import ImageName
from runtime.logs import get_logger
from runtime.postgres import Pool, retry_conflicts

log = get_logger(__name__)

_MOST_UNKNOWN_NAMED = 10
"""Names of workspaces that nobody knows, each with near ones; a token may be for a thousand."""
_RECOMPUTE_AFTER = 20
"""The graph's figures may be older than the account by this many times what computing them takes."""


class NotEmptyError(Exception):
    """A workspace that is to be removed still holds something; `reasons` say what, and what to do."""

    def __init__(self, name: str, reasons: list[str]) -> None:
        super().__init__(f"workspace {name!r} is not empty: {'; '.join(reasons)}")
        self.reasons = reasons


def _reasons(holds: Holds) -> list[str]:
    found = []
    if holds.manifests:
        stored = plural(holds.manifests, "manifest")
        found.append(f"it stores {stored}: delete them in the registry, or map their repositories")
    if holds.reservations:
        found.append(
            f"{plural(holds.reservations, 'reservation')} of a build: let it end, or release it"
        )
    if holds.lease_sources:
        sources = ", ".join(holds.lease_sources)
        found.append(f"it has leases of {sources}: `registry-quota leases retire` ends them")
    if holds.cleaning:
        found.append("a cleanup is running: wait for its end")
    return found


def _check_reserved(view: WorkspaceView, wanted: int) -> None:
    """`view`: with what is reserved for other builds. What is set aside stays within the quota."""
    if view.reserved_bytes + wanted > view.quota_bytes:
        raise TooMuchError(
            "bytes",
            f"{wanted} and {view.reserved_bytes} that are reserved for other builds of {view.name} are"
            f" more than its quota of {view.quota_bytes}: reserve less, wait for those builds, or"
            " raise the quota",
        )
    if view.reservations >= MOST_OPEN:
        raise TooMuchError(
            "build_id",
            f"{view.reservations} builds of {view.name} have bytes set aside, and {MOST_OPEN} may:"
            " give back what is not needed any more, or wait until it expires",
        )


class Graph(msgspec.Struct, frozen=True):
    """Figures that need the whole graph, and when they were true."""

    images: int
    tags: int
    untagged_images: int
    untagged_bytes: int
    as_of: datetime
    changed_at: datetime
    cost_seconds: float


class Accounts:
    """Reads the ledger for the API, sets quotas, keeps reservations."""

    def __init__(
        self,
        pool: Pool,
        *,
        default_quota_bytes: int,
        level_of: LevelRule,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._default_quota_bytes = default_quota_bytes
        self._level_of = level_of
        self._clock = clock
        self._new_id = new_id
        self._graphs: dict[int, Graph] = {}

    async def workspace(self, name: str) -> WorkspaceView | None:
        """A workspace that has had an image or settings."""
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, name, now=self._clock())
        return view if view is not None and view.visible else None

    async def unknown(self, names: Iterable[str], among: frozenset[str] | None) -> list[str]:
        """A warning for each name of a workspace that nobody knows here, with near ones of `among`.

        For very many of them the first have one each, and the others one together.
        """
        wanted = list(dict.fromkeys(names))
        async with self._pool.acquire() as connection:
            known = await reading.list_workspaces(
                connection, now=self._clock(), limit=len(wanted), among=wanted
            )
            seen = {view.name for view in known}
            strange = [name for name in wanted if name not in seen]
            warnings = [
                warning
                for name in strange[:_MOST_UNKNOWN_NAMED]
                for warning in await unknown.workspace(connection, name, None, among)
            ]
        if (more := len(strange) - _MOST_UNKNOWN_NAMED) > 0:
            are = "is" if more == 1 else "are"
            warnings.append(
                f"unknown_workspace: {plural(more, 'more name')} {are} unknown here, too"
            )
        return warnings

    async def unknown_repository(self, registry: str, name: str, workspace: str) -> list[str]:
        """A warning when nothing was ever pushed to a repository; near ones are those of a workspace."""
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, workspace, now=self._clock())
            return await unknown.repository(connection, registry, name, view)

    async def near_workspaces(self, name: str, among: frozenset[str] | None) -> str:
        """Near names of `among` (None: all), as the end of a sentence; or nothing."""
        async with self._pool.acquire() as connection:
            return await unknown.near_workspaces(connection, name, among)

    async def unknown_app(self, view: WorkspaceView, name: str | None) -> list[str]:
        """A warning when nothing was ever pushed to an app of a workspace; none without a name."""
        if name is None:
            return []
        async with self._pool.acquire() as connection:
            return await unknown.app(connection, view, name)

    async def near_image(self, view: WorkspaceView, name: ImageName) -> str:
        """Near names for an image that a workspace has not, as the end of a sentence; or nothing."""
        async with self._pool.acquire() as connection:
            return await unknown.image(connection, view, name)

    async def workspaces(
        self, *, after: str, limit: int, among: frozenset[str] | None = None
    ) -> list[WorkspaceView]:
        """Workspaces by name; with `among` these alone."""
        async with self._pool.acquire() as connection:
            return await reading.list_workspaces(
                connection,
                now=self._clock(),
                after=after,
                limit=limit,
                among=None if among is None else sorted(among),
            )

    async def policy(self, name: str) -> Policy:
        """The policy in force; that of an unknown workspace is the default one."""
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, name, now=self._clock())
        return DEFAULT_POLICY if view is None else parse_policy(view.policy)

    async def configure(self, name: str, settings: Settings) -> WorkspaceView:
        """Set quota, policy or enforcement; a workspace that nobody pushed to yet appears."""

        async def attempt() -> WorkspaceView | None:
            now = self._clock()
            async with self._pool.acquire() as connection, connection.transaction():
                await workspaces.configure(
                    connection,
                    name,
                    settings,
                    default_quota_bytes=self._default_quota_bytes,
                    level_of=self._level_of,
                    now=now,
                    new_id=self._new_id,
                )
                return await reading.find_workspace(connection, name, now=now)

        view = await retry_conflicts(attempt)
        if view is None:  # pragma: no cover - it was configured a line ago
            raise LookupError(name)
        log.info(
            "workspace_set",
            workspace=name,
            quota_bytes=view.quota_bytes,
            enforcement=view.enforcement,
            policy=view.policy,
        )
        return view

    async def remove(self, name: str) -> None:
        """Remove an empty workspace. Raises NotEmptyError with what it holds; nothing is changed then."""

        async def attempt() -> Holds | None:
            async with self._pool.acquire() as connection, connection.transaction():
                return await workspaces.remove(
                    connection,
                    name,
                    default_quota_bytes=self._default_quota_bytes,
                    now=self._clock(),
                )

        holds = await retry_conflicts(attempt)
        if holds is not None and (reasons := _reasons(holds)):
            raise NotEmptyError(name, reasons)
        log.info("workspace_removed", workspace=name)

    async def usage(self, view: WorkspaceView) -> dict[str, Any]:
        """`GET …/usage`: what is stored, exact; the graph's figures with their own time."""
        graph, view = await self._graph(view)
        async with self._pool.acquire() as connection:
            # Not a figure of this workspace's alone: another may take up what it let go of.
            awaiting_gc_bytes = await garbage.awaiting_bytes(connection, view.id)
        return {
            "workspace": view.name,
            "usage_bytes": view.usage_bytes,
            "quota_bytes": view.quota_bytes,
            "ratio": round(view.usage_bytes / view.quota_bytes, 4),
            "level": view.level,
            "reserved_bytes": view.reserved_bytes,
            "images": graph.images,
            "tags": graph.tags,
            "untagged_images": graph.untagged_images,
            "untagged_bytes": graph.untagged_bytes,
            "awaiting_gc_bytes": awaiting_gc_bytes,
            "as_of": graph.as_of,
        }

    async def _graph(self, view: WorkspaceView) -> tuple[Graph, WorkspaceView]:
        """The graph's figures and a view that is as new: a push between two questions is in both."""
        known = self._graphs.get(view.id)
        now = self._clock()
        if known is not None and (
            known.changed_at == view.changed_at
            or (now - known.as_of).total_seconds() < known.cost_seconds * _RECOMPUTE_AFTER
        ):
            return known, view
        started = time.monotonic()
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            view = await reading.find_workspace(connection, view.name, now=now) or view
            manifests = await reading.manifests_of(connection, view.id)
            digests = await asyncio.to_thread(images.digests_of, manifests)
            held = await reading.held(connection, view.id, digests)
            rest = await asyncio.to_thread(untagged, manifests, held)
            graph = Graph(
                images=sum(item.present for item in manifests),
                tags=sum(len(item.tags) for item in manifests),
                untagged_images=rest.images,
                untagged_bytes=rest.bytes,
                as_of=now,
                changed_at=view.changed_at,
                cost_seconds=time.monotonic() - started,
            )
        self._graphs[view.id] = graph
        return graph, view

    async def images(
        self,
        view: WorkspaceView,
        *,
        app: str | None,
        tag: str | None,
        after: Cursor | None,
        limit: int,
    ) -> dict[str, Any]:
        """`GET …/images`: a page, newest push first."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            page = await image_rows.page(
                connection, view.id, app=app, tag=tag, after=after, limit=limit + 1
            )
            more, page = len(page) > limit, page[:limit]
            items = await describe_page(connection, view, page, self._clock())
            warnings: list[str] = []
            if not items and after is None:
                if app is not None:
                    warnings += await unknown.app(connection, view, app)
                if tag is not None and not warnings:
                    warnings += await unknown.tag(connection, view, tag, app)
        return {
            "items": items,
            "next_cursor": images.encode_cursor(page[-1]) if more else None,
            "warnings": warnings,
        }

    async def events(self, view: WorkspaceView, *, after: int, limit: int) -> dict[str, Any]:
        """`GET …/events`: quota events, oldest first."""
        async with self._pool.acquire() as connection:
            rows = await reading.events_of(connection, view.id, after=after, limit=limit)
        return {
            "items": [
                {
                    "id": row["event_id"],
                    "type": row["type"],
                    "subject": row["workspace"],
                    "time": row["occurred_at"],
                    "data": msgspec.Raw(row["data"].encode()),
                }
                for row in rows
            ],
            "next_cursor": str(rows[-1]["id"]) if len(rows) == limit else None,
        }

    async def reserve(self, name: str, reservation: Reservation) -> Reservation:
        """Set bytes aside by hand, under the workspace's lock; it may have no image yet.

        Raises TooMuchError where more than the quota would be set aside.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await workspaces.add_workspace(connection, name, self._default_quota_bytes)
            workspace = await workspaces.lock_workspace(connection, name)
            if workspace is None:
                raise too_many_workspaces(name, MOST_UNSEEN)
            view = await reading.find_workspace(
                connection, name, now=self._clock(), except_build=reservation.build_id
            )
            if view is not None:
                _check_reserved(view, reservation.bytes)
            return await reservations.reserve(connection, workspace.id, reservation)

    async def reservations(
        self, name: str, *, after: Place | None = None, limit: int = MOST_OPEN
    ) -> list[Reservation]:
        """What is reserved now, oldest first; nothing in a workspace that is not known."""
        now = self._clock()
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, name, now=now)
            if view is None:
                return []
            return await reservations.reservations(
                connection, view.id, now=now, after=after, limit=limit
            )

    async def release(self, name: str, reservation: str) -> bool:
        """Give reserved bytes back, by the reservation's id or its build's."""
        async with self._pool.acquire() as connection:
            view = await reading.find_workspace(connection, name, now=self._clock())
            return view is not None and await reservations.release(connection, view.id, reservation)

    async def ready(self) -> str | None:
        """None when the database answers, within two seconds. Raises TimeoutError."""
        # Bounded as a whole: a connection that is at hand may be one that nothing comes back on.
        async with asyncio.timeout(2), self._pool.acquire(timeout=2) as connection:
            await reading.ping(connection)
        return None
