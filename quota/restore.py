"""Undo: what cleanups deleted is put back while the registry still has the blobs.

Children before their index. A tag that names another image by now is not taken from it. What cannot
be put back is named, with what is missing. Doing it twice changes nothing more.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Literal
from uuid import UUID

import msgspec

from ledger import names, reading, runs, undo
from ledger.reading import WorkspaceView
from ledger.undo import Kept
from quota.cleanup import Cleaner
from quota.decision import Figures, needs_cleanup
from quota.deleting import Tools
from quota.near import did_you_mean
from quota.plan import ManifestKey
from quota.policy import parse_policy
from quota.put_back import GoneError, missing_of, parsed_of, put_back, with_what_it_needs
from registry.errors import RegistryError
from registry.names import format_digest
from registry.refs import ImageName
from runtime.logs import get_logger
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

State = Literal["restored", "present", "lost", "failed"]


class MovedTag(msgspec.Struct, frozen=True):
    """A tag of the image that names another one by now."""

    tag: str
    digest: str


class RestoredImage(msgspec.Struct, frozen=True):
    """What became of one manifest."""

    repository: str
    app: str
    digest: str
    tags: tuple[str, ...]
    """Tags that name it now."""
    state: State
    why: str
    missing: tuple[str, ...] = ()
    """Digests that its registry has no more."""
    moved_tags: tuple[MovedTag, ...] = ()


class Restoration(msgspec.Struct, frozen=True):
    """What became of all of them, in the order of deletion."""

    images: tuple[RestoredImage, ...]
    usage_bytes: int
    warnings: tuple[str, ...]

    def count(self, state: State) -> int:
        """How many manifests ended so."""
        return sum(image.state == state for image in self.images)


class NothingKeptError(Exception):
    """There is nothing to put back: no such run, or no cleanup has deleted such an image."""


class StillRunningError(Exception):
    """The cleanup is still running; put back what it deleted when it has ended."""


class Restorer:
    """Puts back what cleanups have deleted."""

    def __init__(self, cleaner: Cleaner) -> None:
        self._cleaner = cleaner

    @property
    def _tools(self) -> Tools:
        return self._cleaner.tools

    async def run(self, view: WorkspaceView, run_id: UUID) -> Restoration:
        """Everything that a cleanup deleted. Raises NothingKeptError, StillRunningError."""
        async with self._tools.pool.acquire() as connection:
            found = await runs.run_of(connection, view.id, run_id)
            if found is None:
                raise NothingKeptError("there is no such cleanup in this workspace")
            if found["state"] == "running":
                raise StillRunningError
            kept = await undo.kept_of_run(connection, view.id, run_id)
        return await self._restore(view, kept)

    async def lost(
        self, view: WorkspaceView, run_id: UUID, *, seconds: float
    ) -> set[tuple[str, str]]:
        """(repository, digest) of what a cleanup deleted and a collection has taken since.

        The registry is asked for so long; what it did not answer for is not among them.
        """
        async with self._tools.pool.acquire() as connection:
            kept = await undo.kept_of_run(connection, view.id, run_id)
        keys = {item.recorded.item.key for item in kept}
        gone: set[ManifestKey] = set()
        with contextlib.suppress(TimeoutError, RegistryError):
            async with asyncio.timeout(seconds):
                # Children before their index: it comes back only with them.
                for item in reversed(kept):
                    of = item.recorded.item
                    missing = {
                        (of.registry, of.repository, digest)
                        for digest in await missing_of(self._tools, item)
                    }
                    if missing & gone or missing - keys:
                        gone.add(of.key)
        return {(repository, format_digest(digest)) for _registry, repository, digest in gone}

    async def image(self, view: WorkspaceView, name: ImageName) -> Restoration:
        """An image's newest deletion, with what went along. Raises NothingKeptError."""
        async with self._tools.pool.acquire() as connection:
            kept = await undo.kept_of_image(
                connection,
                view.id,
                repository=name.repository,
                digest=name.digest,
                tag=name.tag,
            )
        wanted = with_what_it_needs(
            kept,
            {
                k.recorded.item.key
                for k in kept
                if (name.digest is None or k.recorded.item.digest == name.digest)
                and (name.tag is None or name.tag in k.recorded.item.tags)
            },
        )
        if not wanted:
            why = "no cleanup of this workspace has deleted such an image"
            if name.repository is not None and not kept:
                async with self._tools.pool.acquire() as connection:
                    known = await names.repositories_like(connection, view.id, name.repository)
                    tags = await names.deleted_tags_like(
                        connection, view.id, name.repository, name.tag or ""
                    )
                if name.repository not in known:
                    why += f"; {name.repository} is unknown in it"
                    why += did_you_mean(name.repository, known)
                elif name.tag is not None:
                    why += did_you_mean(name.tag, tags)
            raise NothingKeptError(why)
        return await self._restore(view, wanted)

    async def _restore(self, view: WorkspaceView, kept: Sequence[Kept]) -> Restoration:
        images = [await self._one(view, item) for item in reversed(kept)]
        tools = self._tools
        async with tools.pool.acquire() as connection:
            after = await reading.find_workspace(connection, view.name, now=tools.clock())
        now = view if after is None else after
        figures = Figures(
            usage_bytes=now.usage_bytes,
            reserved_bytes=now.reserved_bytes,
            incoming_bytes=0,
            quota_bytes=now.quota_bytes,
        )
        # What is put back is as old as it was: the next cleanup begins with it.
        again = needs_cleanup(figures, parse_policy(now.policy))
        return Restoration(
            tuple(reversed(images)), now.usage_bytes, ("above_trigger",) if again else ()
        )

    async def _one(self, view: WorkspaceView, kept: Kept) -> RestoredImage:
        try:
            image = await self._put(view, kept)
        except GoneError as error:
            image = _image(kept, (), "lost", str(error), missing=error.missing)
        except RegistryError as error:
            image = _image(kept, (), "failed", str(error))
        done = image.state in ("restored", "present")
        (log.info if done else log.warning)(
            "image_restored" if done else "image_not_restored",
            workspace=view.name,
            repository=image.repository,
            digest=image.digest,
            tags=list(image.tags),
            state=image.state,
            reason=image.why,
            run=str(kept.run_id),
        )
        return image

    async def _put(self, view: WorkspaceView, kept: Kept) -> RestoredImage:
        tools, item = self._tools, kept.recorded.item
        async with tools.pool.acquire() as connection:
            owner = await reading.owner_of(connection, item.repository_id)
        if owner != view.id:
            # Nothing of it is told, either: it is somebody else's.
            return _image(
                kept,
                (),
                "failed",
                "its repository is another workspace's by now: who owns it may put it back",
            )
        if item.registry != DEFAULT_REGISTRY:
            raise RegistryError(f"registry {item.registry} is not the one that can be written to")
        there = (await tools.client.head_manifest(item.repository, item.digest)).exists
        own: list[str] = []
        free: list[str] = []
        moved: list[MovedTag] = []
        for tag in item.tags:
            state = await tools.client.tag_digest(item.repository, tag, item.digest)
            if state.digest is None:
                free.append(tag)
            elif state.digest == item.digest:
                own.append(tag)
            else:
                moved.append(MovedTag(tag, format_digest(state.digest)))
        if there and not free:
            return _image(kept, own, "present", "it is there", moved=moved)
        missing = await missing_of(tools, kept)
        if missing:
            parsed = parsed_of(kept)
            what = "child manifest" if parsed and parsed.kind == "index" else "blob"
            raise GoneError(
                f"{len(missing)} {what}{'s' if len(missing) > 1 else ''} of it"
                " are gone from the registry: a garbage collection has run since",
                missing,
            )
        await put_back(tools, kept, free, source="restore")
        why = "put back" if free or not item.tags else "put back without a tag"
        if moved:
            names = ", ".join(tag.tag for tag in moved)
            why += f"; names another image by now and was left: {names}"
        return _image(kept, [*own, *free], "restored", why, moved=moved)


def _image(
    kept: Kept,
    tags: Sequence[str],
    state: State,
    why: str,
    *,
    missing: Sequence[bytes] = (),
    moved: Sequence[MovedTag] = (),
) -> RestoredImage:
    item = kept.recorded.item
    return RestoredImage(
        item.repository,
        item.app,
        format_digest(item.digest),
        tuple(tags),
        state,
        why,
        tuple(format_digest(digest) for digest in missing),
        tuple(moved),
    )
