"""Looks at the registry: what it shows becomes an observation, stamped by its own clock."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from ledger.ahead import AHEAD_NS, SECOND_NS
from ledger.contents import believable, content_of_manifest
from ledger.facts import (
    BlobStored,
    Ceiling,
    Content,
    Fact,
    ManifestDeleted,
    ManifestSeen,
    Stamp,
    TagRemoved,
)
from registry.answers import FetchedManifest
from registry.client import RegistryClient
from registry.errors import (
    NotFound,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
    SentElsewhere,
)
from registry.manifests import parse_config_created, parse_manifest
from registry.media_types import IMAGE_CONFIG_TYPES
from registry.models import Descriptor, ParsedManifest
from registry.timestamps import to_ns
from runtime.aside import aside
from runtime.lifecycle import end
from runtime.settings import DEFAULT_REGISTRY

_MOST_CONFIG_BYTES = 4 * 1024 * 1024

MENDS_A_TAG = "pushing that tag again, or deleting it, mends it"
"""What to do about a tag that a registry cannot read, or that names nothing."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


async def only_this(client: RegistryClient, error: Exception) -> None:
    """Whether one thing answers oddly (then it returns) or the registry as a whole (raises the error).

    A blob that storage lost, or a tag whose link is empty, is answered 500 for ever: that must end
    nothing but what needs it. Raises `error`, or what the registry says now.
    """
    if isinstance(error, RegistryDenied):
        raise error
    if isinstance(error, RegistryUnavailable):
        if error.retry_after is not None:
            raise error
        await client.ping()


class Look(msgspec.Struct, frozen=True):
    """A manifest as the registry showed it."""

    digest: bytes
    media_type: str
    size: int
    content: Content | None
    """None for a format that we do not read."""
    date: datetime
    """The registry's clock in its answer, to the second."""
    config: Descriptor | None
    """An image's config, if it may say when it was built."""


class Blob(msgspec.Struct, frozen=True):
    """A digest stands for a blob."""

    size: int | None
    """Bytes; None where the registry does not tell."""

    def facts(self, digest: bytes) -> list[BlobStored]:
        """What storage said of it."""
        if self.size is None or not believable(digest, self.size):
            return []
        return [BlobStored(digest, self.size)]


async def what_is(
    client: RegistryClient, repository: str, digest: bytes
) -> FetchedManifest | Blob | None:
    """What a registry has under a digest that a manifest names; None: nothing.

    Asked for a blob as if it were a manifest a registry fails (500, and no other try would help): that
    is an answer. It is a failure only where there is no such blob. Raises RegistryError.
    """
    failed = False
    try:
        return await client.get_manifest(repository, digest, again=False)
    except NotFound:
        pass
    except RegistryDenied:
        raise
    except RegistryError:
        failed = True
    try:
        return Blob(await client.head_blob(repository, digest))
    except NotFound:
        return await client.get_manifest(repository, digest) if failed else None


def require_date(date: datetime | None) -> datetime:
    """The registry's clock. Raises RegistryError where an answer told none."""
    if date is None:
        raise RegistryError("the registry's answers carry no Date: what it says cannot be ordered")
    return date


async def look_at(fetched: FetchedManifest) -> Look:
    """Read a fetched manifest, a large one beside the event loop. Raises ManifestError, RegistryError."""
    return await aside(len(fetched.body), _look_at, fetched)


async def parsed(fetched: FetchedManifest) -> ParsedManifest:
    """The same, as its document says. Raises ManifestError."""
    return await aside(len(fetched.body), parse_manifest, fetched.body, fetched.media_type)


def _look_at(fetched: FetchedManifest) -> Look:
    parsed = parse_manifest(fetched.body, fetched.media_type)
    config = parsed.config
    return Look(
        fetched.digest,
        parsed.media_type or fetched.media_type,
        len(fetched.body),
        content_of_manifest(parsed),
        require_date(fetched.date),
        config if config is not None and config.media_type in IMAGE_CONFIG_TYPES else None,
    )


class UnreadConfigError(Exception):
    """An image's config cannot be read, so its age stays unknown: nothing deletes it."""

    def __init__(self, cause: RegistryError) -> None:
        super().__init__(f"its config cannot be read, so its age is not known: {cause}")
        self.elsewhere = cause.host if isinstance(cause, SentElsewhere) else None
        """The host that the registry sent us to, and that we are not allowed to follow to."""


async def created_ns(
    client: RegistryClient, repository: str, config: Descriptor, *, now: datetime
) -> int | None:
    """When an image says it was built, in nanoseconds; None unless that can be believed.

    Raises UnreadConfigError, and RegistryError when the registry itself is the trouble.
    """
    try:
        body = await client.get_blob(repository, config.digest, _MOST_CONFIG_BYTES)
    except RegistryUnavailable as error:
        await only_this(client, error)
        raise UnreadConfigError(error) from error
    except RegistryError as error:
        raise UnreadConfigError(error) from error
    created = parse_config_created(body, now)
    return None if created is None else to_ns(created)


async def config_elsewhere(client: RegistryClient, repository: str, digest: bytes) -> bool | None:
    """Whether an image's config is at a host that the registry names and we are not allowed to read.

    None for what has no config: an index, an artifact. Raises RegistryError, ManifestError.
    """
    config = (await look_at(await client.get_manifest(repository, digest))).config
    if config is None:
        return None
    try:
        await client.get_blob(repository, config.digest, _MOST_CONFIG_BYTES)
    except SentElsewhere:
        return True
    return False


def stamp_of(date: datetime, new_id: Callable[[], UUID]) -> Stamp:
    """An observation's stamp: the registry's clock, never ours."""
    return (to_ns(date), new_id().bytes)


def seen(
    repository: str,
    look: Look,
    stamp: Stamp,
    *,
    tag: str | None = None,
    created: int | None = None,
    named: int | None = None,
    registry: str = DEFAULT_REGISTRY,
) -> ManifestSeen:
    """The fact that a look brings. `named`: before that moment the tag did not name it (nanoseconds)."""
    return ManifestSeen(
        registry,
        repository,
        look.digest,
        stamp,
        look.media_type,
        look.size,
        tag,
        look.content,
        created,
        named,
    )


def contradicts(date: datetime, known_ns: int) -> bool:
    """Whether what is known is so far above the registry's clock that waiting for it mends nothing."""
    return known_ns > to_ns(date) + AHEAD_NS


def answered(
    fact: ManifestSeen | ManifestDeleted | TagRemoved,
    asked_ns: int,
    new_id: Callable[[], UUID],
) -> list[Fact]:
    """An answer that holds against stamps above its own (`ledger.ahead`), asked for at `asked_ns`.

    A registry announces a push a moment before it answers with it: what came within the last second
    stays in doubt.
    """
    arrived_ns = asked_ns - SECOND_NS
    told = msgspec.structs.replace(fact, arrived_ns=asked_ns)
    tag = None if isinstance(fact, ManifestDeleted) else fact.tag
    digest = None if isinstance(fact, TagRemoved) else fact.digest
    where, above = (fact.registry, fact.repository), fact.stamp[0]
    facts: list[Fact] = []
    if digest is not None:
        facts.append(Ceiling(*where, (above, new_id().bytes), arrived_ns, digest=digest))
    if tag is not None:
        facts.append(Ceiling(*where, (above, new_id().bytes), arrived_ns, tag=tag))
    return [*facts, told]


async def each(
    items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, Outcome]]
) -> list[tuple[Item, Outcome]]:
    """Do something with every item at once; the registry's client bounds what is open.

    The first error ends the rest and is raised as it is.
    """
    given = list(items)
    # Not `asyncio.TaskGroup`: that of Python 3.11 counts an error as a cancellation of whoever waits, for
    # good, and forgets a cancellation that comes with one.
    tasks = [asyncio.create_task(work(item)) for item in given]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await end(tasks)
    return [(item, task.result()) for item, task in zip(given, tasks, strict=True)]
