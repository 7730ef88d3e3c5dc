"""What pages ask the ledger: one method a question, one transaction each."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from ledger import browsing, garbage, reading
from ledger import images as image_rows
from ledger.browsing import ORDERS, Fullness, Pulse, Totals
from ledger.fold import ManifestKey
from ledger.reading import WorkspaceView
from quota.listing import describe_page
from quota.pages.breakdown import Breakdown, break_down, digests_of
from quota.pages.figures import Known
from runtime.postgres import Pool

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
        return ImagePage(
            items,
            more=len(keys) > limit,
            sorted_as_asked=by_size or query.sort in ORDERS,
        )

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


def _sorted_by_size(
    keys: Sequence[ManifestKey], breakdown: Breakdown, sort: str
) -> list[ManifestKey]:
    """The largest first, with `-` the smallest. What is newer than the figures counts as empty."""
    sizes = breakdown.unique if sort.endswith("unique") else breakdown.sizes
    return sorted(keys, key=lambda key: sizes.get(key, 0), reverse=not sort.startswith("-"))
