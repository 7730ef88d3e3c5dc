"""A person says how old an image is that nobody knows it of: then it may be cleaned in its turn.

An image of unknown age is never a candidate for deletion. It gets an age by its next push, or here.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from ledger.facts import ManifestDated
from ledger.reading import ManifestView, WorkspaceView, manifests_of
from ledger.record import Recorder
from registry.following import subject_of_tag
from registry.names import format_digest
from registry.refs import ImageName
from registry.timestamps import to_ns
from runtime.logs import get_logger
from runtime.postgres import Pool

log = get_logger(__name__)

SOURCE: Final = "dated"
"""The source of these observations."""


class NoSuchImageError(Exception):
    """The workspace has no such image."""


class AgeKnownError(Exception):
    """Its age is known from its tags, which count for more. The message says since when."""


class Dater:
    """Takes what people say of ages; one per process."""

    def __init__(
        self,
        pool: Pool,
        recorder: Recorder,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._clock = clock
        self._new_id = new_id

    async def one(
        self, workspace: WorkspaceView, name: ImageName, moment: datetime
    ) -> list[ManifestView]:
        """Date an image, and what belongs to it and has no age; what was dated, as it is then.

        Raises NoSuchImageError, AgeKnownError.
        """
        views = await self._views(workspace)
        named = [view for view in views if _is(view, name)]
        if not named:
            raise NoSuchImageError
        known = [view for view in named if view.age.source == "tag"]
        if known:
            since = datetime.fromtimestamp(known[0].age.ns / 10**9, self._clock().tzinfo)
            raise AgeKnownError(
                f"its age is known: a tag came to name it at {since:%Y-%m-%d %H:%M:%S} UTC"
            )
        return await self._date(workspace, _with_theirs(named, views), moment)

    async def all_unknown(
        self, workspace: WorkspaceView, app: str | None, moment: datetime
    ) -> list[ManifestView]:
        """Date every image of a workspace (of one app) whose age is not known."""
        views = await self._views(workspace)
        unknown = [view for view in views if view.age.ns < 0 and app in (None, view.app)]
        return await self._date(workspace, unknown, moment)

    async def _views(self, workspace: WorkspaceView) -> list[ManifestView]:
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return [view for view in await manifests_of(connection, workspace.id) if view.present]

    async def _date(
        self, workspace: WorkspaceView, views: Sequence[ManifestView], moment: datetime
    ) -> list[ManifestView]:
        if not views:
            return []
        now = self._clock()
        facts = [
            ManifestDated(
                view.registry,
                view.repository,
                view.digest,
                (to_ns(now), self._new_id().bytes),
                to_ns(moment),
            )
            for view in views
        ]
        await self._recorder.record(facts, now=now, source=SOURCE)
        for view in views:
            log.info(
                "image_dated",
                workspace=workspace.name,
                repository=view.repository,
                digest=format_digest(view.digest),
                tags=list(view.tags),
                date=moment.isoformat(),
            )
        keys = {(view.repository_id, view.digest) for view in views}
        return [
            view
            for view in await self._views(workspace)
            if (view.repository_id, view.digest) in keys
        ]


def _is(view: ManifestView, name: ImageName) -> bool:
    return (
        name.repository in (None, view.repository)
        and name.digest in (None, view.digest)
        and (name.tag is None or name.tag in view.tags)
    )


def _with_theirs(
    named: Iterable[ManifestView], views: Sequence[ManifestView]
) -> list[ManifestView]:
    """These, and of what they hold (children, referrers) what has no age: it goes only with them."""
    found = {(view.repository_id, view.digest): view for view in named}
    by_key = {(view.repository_id, view.digest): view for view in views}
    waiting = list(found.values())
    while waiting:
        holder = waiting.pop()
        children = () if holder.content is None else holder.content.children
        belonging = [
            by_key[key] for child in children if (key := (holder.repository_id, child)) in by_key
        ]
        belonging += [view for view in views if _refers_to(view, holder)]
        for view in belonging:
            key = (view.repository_id, view.digest)
            if key not in found and view.age.ns < 0:
                found[key] = view
                waiting.append(view)
    return list(found.values())


def _refers_to(view: ManifestView, holder: ManifestView) -> bool:
    if view.repository_id != holder.repository_id:
        return False
    if view.content is not None and view.content.subject == holder.digest:
        return True
    subjects = {subject_of_tag(tag) for tag in view.tags}
    return (len(holder.digest), holder.digest[:32]) in subjects
