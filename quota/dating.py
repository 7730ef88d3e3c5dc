"""A person says how old an image is that nobody knows it of: then it may be cleaned in its turn.

An image of unknown age is never a candidate for deletion. It gets an age by its next push, or here.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from ledger.facts import ManifestDated
from ledger.mapping import while_of
from ledger.reading import ManifestView, WorkspaceView, manifests_of
from ledger.record import Recorder
from quota.versions import Version, standing
from registry.following import subject_of_tag
from registry.names import format_digest
from registry.refs import ImageName
from registry.timestamps import to_ns
from runtime.figures import in_utc
from runtime.logs import get_logger
from runtime.postgres import Pool

log = get_logger(__name__)

_DIGITS: Final = re.compile("([0-9]+)")

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

        Raises NoSuchImageError, AgeKnownError, MovedMeanwhileError.
        """
        views = await self._views(workspace)
        named = [view for view in views if _is(view, name)]
        if not named:
            raise NoSuchImageError
        known = [view for view in named if view.age.source == "tag"]
        if known:
            since = datetime.fromtimestamp(known[0].age.ns / 10**9, self._clock().tzinfo)
            raise AgeKnownError(f"its age is known: a tag came to name it at {in_utc(since)} UTC")
        return await self._date(workspace, _with_theirs(named, views), moment)

    async def all_unknown(
        self, workspace: WorkspaceView, app: str | None, moment: datetime
    ) -> list[ManifestView]:
        """Date every image of a workspace (of one app) whose age is not known.

        In the order of their tags, a nanosecond apart: of what is all as old as that, 1.1 goes before
        1.4, not whichever digest is the smaller.
        """
        views = await self._views(workspace)
        unknown = [view for view in views if view.age.ns < 0 and app in (None, view.app)]
        return await self._date(workspace, sorted(unknown, key=_by_tags), moment, step_ns=1)

    async def _views(self, workspace: WorkspaceView) -> list[ManifestView]:
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return [view for view in await manifests_of(connection, workspace.id) if view.present]

    async def _date(
        self,
        workspace: WorkspaceView,
        views: Sequence[ManifestView],
        moment: datetime,
        *,
        step_ns: int = 0,
    ) -> list[ManifestView]:
        """Date some manifests, each digest `step_ns` after the one before it."""
        if not views:
            return []
        now = self._clock()
        later = {digest: n for n, digest in enumerate(dict.fromkeys(v.digest for v in views))}
        facts = [
            ManifestDated(
                view.registry,
                view.repository,
                view.digest,
                (to_ns(now), self._new_id().bytes),
                to_ns(moment) + step_ns * later[view.digest],
            )
            for view in views
        ]
        theirs = [(view.registry, view.repository) for view in views]
        await self._recorder.record(
            facts, now=now, source=SOURCE, within=while_of(workspace.name, theirs)
        )
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


def _by_tags(view: ManifestView) -> tuple[tuple[bool, tuple[Version, ...], int], list[list[str]]]:
    """Versions by their precedence, behind what has none; that by its tags, numbers by their value."""
    return standing(view.tags, 0), sorted(_naturally(tag) for tag in view.tags)


def _naturally(tag: str) -> list[str]:
    # A number as long as its digits say is behind a shorter one.
    parts = _DIGITS.split(tag)
    return [f"{len(part):03}{part}" if part.isdigit() else part for part in parts]


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
