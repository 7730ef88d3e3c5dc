"""What pages ask the ledger: one method a question, one transaction each."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from ledger import browsing, garbage, reading
from ledger import images as image_rows
from ledger.browsing import ORDERS, Fullness, Pulse, Totals
from ledger.fold import ManifestKey
from ledger.reading import ManifestView, WorkspaceView
from quota.listing import describe_page
from quota.pages.breakdown import Breakdown, break_down, digests_of
from quota.pages.figures import Known
from registry.names import format_digest, parse_digest
from runtime.postgres import Connection, Pool

BY_SIZE: Final = frozenset({"size", "-size", "unique", "-unique"})
SORTS: Final = ORDERS | BY_SIZE


class ImageQuery(msgspec.Struct, frozen=True):
    """What is looked for in a workspace's images, and which page of it."""

    search: str | None = None
    app: str | None = None
    tagged: bool | None = None
    sort: str = "pushed"
    page: int = 1


class ImagePage(msgspec.Struct, frozen=True):
    """Images as `GET …/images` describes them."""

    items: list[dict[str, Any]]
    more: bool
    keys: list[ManifestKey]
    """Of the items."""
    parts: Mapping[ManifestKey, list[dict[str, Any]]]
    """What an index of the page holds, by its key."""
    names: Mapping[tuple[str, str], str]
    """(repository, digest) → a tag, of what items say to belong to."""
    sorted_as_asked: bool = True
    """False: sizes of all images are still being added up; sorted by push meanwhile."""


class Event(msgspec.Struct, frozen=True):
    """A quota event."""

    id: int
    type: str
    at: datetime
    data: dict[str, Any]


class Browsing:
    """Reads the ledger for pages."""

    def __init__(self, pool: Pool, *, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._clock = clock

    async def workspaces(
        self, *, among: Sequence[str] | None, search: str | None, offset: int, limit: int
    ) -> tuple[list[Fullness], Totals]:
        """Workspaces, the fullest first, and all of them together."""
        async with self._pool.acquire() as connection:
            found = await browsing.by_fullness(
                connection,
                now=self._clock(),
                among=among,
                search=search,
                offset=offset,
                limit=limit,
            )
            return found, await browsing.totals(connection, among=among)

    async def images(
        self,
        view: WorkspaceView,
        query: ImageQuery,
        *,
        limit: int,
        known: Known[Breakdown] | None,
    ) -> ImagePage:
        """A page of images."""
        offset = (query.page - 1) * limit
        by_size = query.sort in BY_SIZE and known is not None
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            keys = await browsing.keys(
                connection,
                view.id,
                app=query.app,
                search=query.search,
                tagged=query.tagged,
                order=query.sort if query.sort in ORDERS else "pushed",
                offset=0 if by_size else offset,
                limit=None if by_size else limit + 1,
            )
            if by_size and known is not None:
                keys = _sorted_by_size(keys, known.value, query.sort)[offset : offset + limit + 1]
            page = await image_rows.some(connection, keys[:limit])
            items = await describe_page(connection, view, page, self._clock())
            below = {(item.repository_id, item.digest): _below(item) for item in page}
            held = await image_rows.some(
                connection, [key for keys in below.values() for key in keys]
            )
            described = await describe_page(connection, view, held, self._clock())
            names = await self._names(connection, page, items)
        parts = {(v.repository_id, v.digest): item for v, item in zip(held, described, strict=True)}
        return ImagePage(
            items,
            more=len(keys) > limit,
            keys=list(below),
            parts={
                key: [parts[part] for part in of if part in parts]
                for key, of in below.items()
                if of
            },
            names=names,
            sorted_as_asked=by_size or query.sort in ORDERS,
        )

    async def _names(
        self, connection: Connection, page: Sequence[ManifestView], items: Sequence[dict[str, Any]]
    ) -> dict[tuple[str, str], str]:
        """By which tag people know the indexes and subjects that keep items of a page."""
        wanted = {
            (item.repository_id, parse_digest(reason.partition(":")[2]))
            for item, described in zip(page, items, strict=True)
            for reason in described["protected_by"]
            if reason.startswith(("index:", "subject:"))
        }
        found = await image_rows.some(connection, sorted(wanted))
        return {
            (view.repository, format_digest(view.digest)): view.tags[0]
            for view in found
            if view.tags
        }

    async def events(
        self, view: WorkspaceView, *, before: int | None, limit: int
    ) -> tuple[list[Event], bool]:
        """Newest first, and whether there are more."""
        async with self._pool.acquire() as connection:
            rows = await browsing.newest_events(connection, view.id, before=before, limit=limit + 1)
        events = [
            Event(row["id"], row["type"], row["occurred_at"], msgspec.json.decode(row["data"]))
            for row in rows[:limit]
        ]
        return events, len(rows) > limit

    async def item_states(self, run_ids: Sequence[UUID]) -> dict[UUID, dict[str, int]]:
        """Of each run: how many of its images are in which state."""
        async with self._pool.acquire() as connection:
            return await browsing.item_states(connection, run_ids)

    async def pulse(self, workspace_id: int) -> Pulse | None:
        """How a workspace stands; None: it is gone."""
        async with self._pool.acquire() as connection:
            return await browsing.pulse(connection, workspace_id, now=self._clock())

    async def breakdown(self, _name: str, workspace_id: int) -> Breakdown:
        """A workspace by apps and images; the counting is done in a thread."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            contents = [item async for item in browsing.contents(connection, workspace_id)]
            digests = await asyncio.to_thread(digests_of, contents)
            held = await reading.held(connection, workspace_id, digests)
        return await asyncio.to_thread(break_down, contents, held)

    async def awaiting_gc_bytes(self, _name: str, workspace_id: int) -> int:
        """Bytes that are freed in the account and still on the registry's disk."""
        async with self._pool.acquire() as connection:
            return await garbage.awaiting_bytes(connection, workspace_id)


def _below(view: ManifestView) -> list[ManifestKey]:
    """The children of an index."""
    digests = () if view.content is None else view.content.children
    return [(view.repository_id, digest) for digest in digests]


def _sorted_by_size(
    keys: Sequence[ManifestKey], breakdown: Breakdown, sort: str
) -> list[ManifestKey]:
    """The largest first, with `-` the smallest. What is newer than the figures counts as empty."""
    sizes = breakdown.frees if sort.endswith("unique") else breakdown.sizes
    return sorted(keys, key=lambda key: sizes.get(key, 0), reverse=not sort.startswith("-"))
