"""What a build says it pushed: asked of the registry, mapped, in the books before the answer.

The registry's own notification of the same push may come before or after: both are facts, folded by
the same rules, so that the account is the same in either order.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from uuid import UUID, uuid4

import msgspec

from ledger import images as image_rows
from ledger import reading, records
from ledger import reconcile as reconcile_rows
from ledger.contents import believable, content_of_manifest, may_be_manifests, undeclared
from ledger.facts import BlobStored, Fact, names_only
from ledger.mapping import CleanupRunningError, Mapper, MovedMeanwhileError
from ledger.record import Recorder
from quota.images import digests_of, size_bytes
from quota.looking import (
    Blob,
    Look,
    UnreadConfigError,
    created_ns,
    each,
    look_at,
    parsed,
    seen,
    stamp_of,
    what_is,
)
from registry.answers import FetchedManifest
from registry.client import RegistryClient
from registry.errors import NotFound, RegistryError
from registry.manifests import ManifestError
from registry.names import format_digest
from registry.workspaces import Placement
from runtime.postgres import Pool
from runtime.settings import DEFAULT_REGISTRY

_TAG_WAITS = (0.1, 0.3, 0.6)
"""Seconds between looks for a tag: a registry writes it a moment after it announced the push."""
_DELETED_WAITS = (0.2, 1.0)
"""Seconds between looks at an image that was deleted and pushed again within the second: a look is stamped
in whole seconds, before that delete. By then the push's event is here, or the next second has begun."""
_CLEANUP_WAIT = 0.25
"""Seconds between attempts to map while a cleanup runs."""


class TrackingError(Exception):
    """The image cannot be tracked. The message says why and what to do."""


class NotYoursError(Exception):
    """The caller has no rights on a workspace that this takes something from or gives something to."""


class Pushed(msgspec.Struct, frozen=True):
    """An image that a build has pushed. `digest` None: whatever the tag names."""

    workspace: str
    app: str
    repository: str
    tag: str
    digest: bytes | None = None


class Tracked(msgspec.Struct, frozen=True):
    """What is in the books now. Bytes."""

    size_bytes: int
    """Config and layers; of an index the distinct blobs of all its children. No documents."""
    usage_bytes: int
    """Of the whole workspace."""


class _Found(msgspec.Struct, frozen=True):
    """A manifest as the registry showed it, and what storage said of its blobs."""

    look: Look
    created: int | None
    stored: list[BlobStored]


class _Looked(msgspec.Struct, frozen=True):
    top: bytes
    tagged: bool
    """Whether the tag names it."""
    found: dict[bytes, _Found]
    """The manifest and those that it reaches."""
    blobs: list[BlobStored]
    """What an index names and is a blob."""


class Tracker:
    """Takes pushed images into the books; one per process."""

    def __init__(
        self,
        pool: Pool,
        *,
        recorder: Recorder,
        mapper: Mapper,
        client: RegistryClient,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._mapper = mapper
        self._client = client
        self._clock = clock
        self._new_id = new_id

    async def track(self, pushed: Pushed, may: Callable[[str], bool]) -> Tracked:
        """Record an image and its children; its repository counts for this workspace and app after it.

        `may` tells whether the caller has rights on a workspace. Raises NotYoursError before anything
        is asked or changed, TrackingError when the registry or the books do not allow it.
        """
        await self._placement(pushed, may)
        for wait in (*_DELETED_WAITS, None):
            try:
                looked = await self._look(pushed)
            except NotFound as error:
                raise TrackingError(f"the registry does not have it: {error}") from error
            except (RegistryError, ManifestError) as error:
                raise TrackingError(f"the registry could not tell: {error}") from error
            await self._place(pushed, may)
            since = await self._since(pushed, looked.top)
            await self._recorder.record(
                self._facts(pushed, looked, since), now=self._clock(), source="track"
            )
            tracked = await self._account(pushed, looked.top)
            if tracked is not None:
                return tracked
            if wait is not None:
                await asyncio.sleep(wait)
        raise TrackingError("the image was deleted from the registry meanwhile")

    # Whose it is

    async def _placement(self, pushed: Pushed, may: Callable[[str], bool]) -> Placement:
        now_in = await self._mapper.placement(DEFAULT_REGISTRY, pushed.repository)
        for workspace in (pushed.workspace, now_in.workspace):
            if not may(workspace):
                raise NotYoursError(workspace)
        return now_in

    async def _place(self, pushed: Pushed, may: Callable[[str], bool]) -> None:
        """Map the repository, unless it is there already."""
        wanted = Placement(pushed.workspace, pushed.app)
        while (now_in := await self._placement(pushed, may)) != wanted:
            try:
                await self._mapper.map(
                    DEFAULT_REGISTRY,
                    pushed.repository,
                    wanted,
                    now=self._clock(),
                    only_from=now_in.workspace,
                )
            except MovedMeanwhileError:
                continue
            except CleanupRunningError:
                await asyncio.sleep(_CLEANUP_WAIT)  # the caller's deadline bounds it

    # What the registry has

    async def _look(self, pushed: Pushed) -> _Looked:
        """The manifest and everything that it reaches."""
        top = await self._fetch_top(pushed)
        tagged = pushed.digest is None or await self._tag_names(pushed, top.digest)
        found: dict[bytes, _Found] = {top.digest: await self._read(pushed.repository, top)}
        blobs: list[BlobStored] = []
        asked = {top.digest}
        wanted = may_be_manifests(found[top.digest].look.content) - asked
        while wanted:
            asked |= wanted
            answers = await each(
                sorted(wanted), lambda digest: self._ask_named(pushed.repository, digest)
            )
            fresh = {digest: what for digest, what in answers if isinstance(what, _Found)}
            for digest, what in answers:
                if isinstance(what, Blob):
                    blobs += what.facts(digest)
            found |= fresh
            named = (may_be_manifests(what.look.content) for what in fresh.values())
            wanted = frozenset[bytes]().union(*named) - asked
        return _Looked(top.digest, tagged, found, blobs)

    async def _fetch_top(self, pushed: Pushed) -> FetchedManifest:
        if pushed.digest is not None:
            return await self._client.get_manifest(pushed.repository, pushed.digest)
        for wait in _TAG_WAITS:
            try:
                return await self._client.get_manifest(pushed.repository, pushed.tag)
            except NotFound:
                await asyncio.sleep(wait)
        return await self._client.get_manifest(pushed.repository, pushed.tag)

    async def _tag_names(self, pushed: Pushed, digest: bytes) -> bool:
        """Whether the tag names this manifest now; it may have moved on since the push."""
        for wait in (*_TAG_WAITS, None):
            state = await self._client.tag_digest(pushed.repository, pushed.tag, digest)
            if state.digest is not None:
                return state.digest == digest
            if wait is not None:
                await asyncio.sleep(wait)
        raise TrackingError(
            f"the registry has {pushed.repository}@{format_digest(digest)}, "
            f"but no tag {pushed.tag!r} there"
        )

    async def _ask_named(self, repository: str, digest: bytes) -> _Found | Blob | None:
        """What a manifest names; an index may name what was never pushed."""
        stored = await what_is(self._client, repository, digest)
        return (
            await self._read(repository, stored) if isinstance(stored, FetchedManifest) else stored
        )

    async def _read(self, repository: str, fetched: FetchedManifest) -> _Found:
        look = await look_at(fetched)
        stored: dict[bytes, int] = {}
        if look.content is None:
            # A declared size that says nothing: storage is asked.
            document = await parsed(fetched)
            for digest in undeclared(document):
                size = await self._client.head_blob(repository, digest)
                if size is not None:
                    stored[digest] = size
            look = msgspec.structs.replace(look, content=content_of_manifest(document, stored))
        for digest in _elsewhere(look):
            with suppress(NotFound):
                size = await self._client.head_blob(repository, digest)
                if size is not None and believable(digest, size):
                    stored[digest] = size
        created = None
        if look.config is not None:
            with suppress(UnreadConfigError):
                created = await created_ns(self._client, repository, look.config, now=self._clock())
        return _Found(look, created, [BlobStored(blob, size) for blob, size in stored.items()])

    async def _since(self, pushed: Pushed, digest: bytes) -> int | None:
        """The last pass over the repository, where the ledger does not know yet what the tag names."""
        async with self._pool.acquire() as connection:
            known = await records.find_repository(connection, DEFAULT_REGISTRY, pushed.repository)
            if known is not None:
                standing = await records.standing(connection, known[0], pushed.tag)
                if standing.tag.digest == digest and standing.tag.live(standing.manifest):
                    return None
            not_before = await reconcile_rows.floor(
                connection, DEFAULT_REGISTRY, pushed.repository, usual=pushed.workspace
            )
        return not_before.of(pushed.tag)

    def _facts(self, pushed: Pushed, looked: _Looked, since: int | None) -> list[Fact]:
        """Observations, stamped by the registry's clock: they never overrule a newer event."""
        facts: list[Fact] = [*looked.blobs]
        top, found = looked.top, looked.found
        # An index is as new as its newest child.
        newest = max((what.created for what in found.values() if what.created), default=None)
        for digest, what in found.items():
            facts += what.stored
            facts.append(
                seen(
                    pushed.repository,
                    what.look,
                    stamp_of(what.look.date, self._new_id),
                    tag=pushed.tag if digest == top and looked.tagged else None,
                    created=newest if digest == top else what.created,
                    named=since if digest == top and looked.tagged else None,
                )
            )
        return facts

    # What it comes to

    async def _account(self, pushed: Pushed, digest: bytes) -> Tracked | None:
        """None when a newer fact says that the image is gone."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            workspace = await reading.find_workspace(
                connection, pushed.workspace, now=self._clock()
            )
            view = await image_rows.find(connection, DEFAULT_REGISTRY, pushed.repository, digest)
            if workspace is None or view is None:
                return None
            views = await image_rows.with_children(connection, [view])
            held = await reading.held(connection, workspace.id, digests_of(views.values()))
        if view.content is None:
            raise TrackingError(
                f"it is recorded, but its media type ({view.media_type or 'none'}) tells no size: "
                "the size is pending"
            )
        size = size_bytes(views, (view.repository_id, view.digest), held)
        return Tracked(size, workspace.usage_bytes)


def _elsewhere(look: Look) -> list[bytes]:
    """What may be stored here or not (`urls`), and is no manifest: storage knows."""
    if look.content is None:
        return []
    named = [digest for digest, size in look.content.blobs if names_only(digest, size)]
    return [digest for digest in named if digest not in look.content.children]
