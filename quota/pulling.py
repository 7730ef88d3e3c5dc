"""Can an image be pulled? Everything that a client would need is asked for, each digest once.

Only an answer to exactly that question proves it. A conditional 304 proves no manifest and a HEAD no
blob: after a garbage collection without a restart a registry's cache answers both for what is gone.
So a manifest is fetched by digest, and of every blob its first byte.
"""

import asyncio
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from quota import looking
from quota.looking import only_this
from registry.answers import FetchedManifest
from registry.client import RegistryClient
from registry.errors import (
    NotFound,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
    WrongContent,
)
from registry.manifests import ManifestError, attestations
from registry.media_types import bare, descriptor_kind
from registry.models import Descriptor
from registry.names import format_digest
from runtime.lifecycle import end

MOST_DIGESTS: Final = 2000
"""Digests that one run asks for."""
MOST_SECONDS: Final = 30.0
"""That one run spends on it."""

Image = tuple[str, bytes]
"""(repository, digest)"""


@dataclass(frozen=True, slots=True)
class Pull:
    """What came of asking for an image, or for a part of one."""

    state: Literal["whole", "broken", "unclear"]
    """`unclear`: nothing is proved, neither that it can be pulled nor that it cannot."""
    why: str = ""
    gone: datetime | None = None
    """The registry's clock when it answered 404 for the manifest itself."""


WHOLE: Final = Pull("whole")

ELSEWHERE: Final = (
    "the registry redirects its blobs to a host that RQ_REGISTRY_REDIRECT_HOSTS does not name"
)
"""Why an image is `unclear` whose blobs are in object storage that we are not allowed to read."""


class PullCheck:
    """Asks for images, within a bound of its own; one a run."""

    def __init__(
        self, client: RegistryClient, *, most: int = MOST_DIGESTS, seconds: float = MOST_SECONDS
    ) -> None:
        self._client = client
        self._most = most
        self._seconds = seconds
        self._seconds_left = seconds
        self._turn = asyncio.Lock()
        self._asked: dict[tuple[str, str, bytes], asyncio.Task[Pull]] = {}
        self._known: Container[Image] = frozenset()

    def knows(self, image: Image) -> bool:
        """Whether it was asked for already."""
        return ("manifest", *image) in self._asked

    async def ask(self, images: Iterable[Image], known: Container[Image]) -> dict[Image, Pull]:
        """Ask for images that were not asked for yet, and tell of all of them.

        `known`: what the ledger has or had; a child of an index that never was there is none that is
        missing. Raises RegistryError when the registry as a whole does not answer.
        """
        async with self._turn:
            self._known = known
            return await self._within_bounds(list(dict.fromkeys(images)))

    async def _within_bounds(self, wanted: Sequence[Image]) -> dict[Image, Pull]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        work = asyncio.create_task(self._all(wanted))
        try:
            await asyncio.wait([work], timeout=max(self._seconds_left, 0.0))
        finally:
            self._seconds_left -= loop.time() - began
            # What waits for them ends with them, at once.
            await end([task for task in self._asked.values() if not task.done()])
            await asyncio.wait([work])
        for task in self._asked.values():
            if not task.cancelled():
                task.exception()  # raised below, if anybody needed it
        return work.result()

    async def _all(self, images: Sequence[Image]) -> dict[Image, Pull]:
        pulls = await asyncio.gather(*(self._manifest(*image) for image in images))
        return dict(zip(images, pulls, strict=True))

    async def _once(
        self, kind: str, image: Image, ask: Callable[[], Coroutine[Any, Any, Pull]]
    ) -> Pull:
        key = (kind, *image)
        task = self._asked.get(key)
        if task is None:
            if len(self._asked) >= self._most:
                return Pull("unclear", f"there are more than {self._most:,} digests to ask for")
            if self._seconds_left <= 0:
                return self._too_slow()
            task = self._asked[key] = asyncio.create_task(ask())
        await asyncio.wait([task])
        return self._too_slow() if task.cancelled() else task.result()

    def _too_slow(self) -> Pull:
        return Pull("unclear", f"it was not answered within {self._seconds:g} s")

    async def _manifest(self, repository: str, digest: bytes, *, entry: bool = False) -> Pull:
        return await self._once(
            "manifest",
            (repository, digest),
            lambda: self._ask_manifest(repository, digest, entry=entry),
        )

    async def _blob(self, repository: str, digest: bytes) -> Pull:
        return await self._once(
            "blob", (repository, digest), lambda: self._ask_blob(repository, digest)
        )

    async def _ask_manifest(self, repository: str, digest: bytes, *, entry: bool) -> Pull:
        try:
            fetched = await self._fetched(repository, digest, entry=entry)
            if fetched is None:
                return WHOLE
            parsed = await looking.parsed(fetched)
        except NotFound as error:
            return Pull("broken", f"the registry answers 404 for {_short(digest)}", error.date)
        except ManifestError as error:
            return Pull("broken", f"its manifest cannot be read: {error}")
        except RegistryError as error:
            return await self._odd(error)
        # What is at the `urls` of a layer is not the registry's to have.
        blobs = [*([parsed.config] if parsed.config else []), *parsed.layers]
        parts = [self._blob(repository, blob.digest) for blob in blobs if not blob.has_urls]
        if parts:
            return _worst(await asyncio.gather(*parts))
        return await self._children(repository, parsed.children, attestations(fetched.body))

    async def _fetched(
        self, repository: str, digest: bytes, *, entry: bool
    ) -> FetchedManifest | None:
        """Its document; None: the registry has a blob under that digest, and an index calls it a manifest.

        Asked for such a blob a registry fails, however often: that is worth one try. Raises RegistryError.
        """
        if entry:
            try:
                return await self._client.get_manifest(repository, digest, again=False)
            except (NotFound, RegistryDenied):
                raise
            except RegistryError:
                if (await self._blob(repository, digest)).state == "whole":
                    return None
        return await self._client.get_manifest(repository, digest)

    async def _children(
        self, repository: str, children: Sequence[Descriptor], beside: Container[bytes]
    ) -> Pull:
        """An index: whatever it has for a platform. Nobody pulls attestations to run them.

        One child that cannot be pulled is enough: some platform's image is gone. What was never
        there is no such child (an index may name more than was pushed), unless nothing is.
        """
        wanted = [child for child in children if child.digest not in beside]
        pulls = await asyncio.gather(*(self._entry(repository, child) for child in wanted))
        there = [
            WHOLE if pull.state == "whole" else Pull(pull.state, _of_child(child.digest, pull))
            for child, pull in zip(wanted, pulls, strict=True)
            if pull.gone is None or (repository, child.digest) in self._known
        ]
        if wanted and not there:
            return Pull("broken", "none of the images that it names is there")
        return _worst(there)

    async def _entry(self, repository: str, child: Descriptor) -> Pull:
        """An index may name blobs, too: what a type does not say is asked of storage as both."""
        media_type = bare(child.media_type)
        if not media_type or descriptor_kind(media_type) == "manifest":
            return await self._manifest(repository, child.digest, entry=True)
        pull = await self._blob(repository, child.digest)
        if pull.state != "broken":
            return pull
        other = await self._manifest(repository, child.digest, entry=True)
        return other if other.state == "whole" else pull

    async def _ask_blob(self, repository: str, digest: bytes) -> Pull:
        try:
            there = await self._client.has_blob(repository, digest)
        except RegistryDenied as error:
            # The registry let its manifest be read: this is the word of the storage behind it.
            return Pull("unclear", str(error))
        except RegistryError as error:
            return await self._odd(error)
        if there is None:
            return Pull("unclear", ELSEWHERE)
        return WHOLE if there else Pull("broken", f"the blob {_short(digest)} is not there")

    async def _odd(self, error: RegistryError) -> Pull:
        """Something else than the thing or its absence, from a registry that answers otherwise."""
        await only_this(self._client, error)
        answered = not isinstance(error, RegistryUnavailable) or error.date is not None
        proved = answered and isinstance(error, RegistryUnavailable | WrongContent)
        return Pull("broken" if proved else "unclear", str(error))


def _worst(pulls: Iterable[Pull]) -> Pull:
    """One part that is gone is enough; else one of which nothing is known."""
    found = list(pulls)
    for state in ("broken", "unclear"):
        for pull in found:
            if pull.state == state:
                return pull
    return WHOLE


def _of_child(digest: bytes, pull: Pull) -> str:
    return pull.why if pull.why == ELSEWHERE else f"{_short(digest)}: {pull.why}"


def _short(digest: bytes) -> str:
    return f"{format_digest(digest)[:19]}…"
