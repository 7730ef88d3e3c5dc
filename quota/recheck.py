"""Before anything is deleted: ask the registry about what the plan rests on.

A missed event must not cost an image, nor two clients that moved one tag at once. Every tag of a
repository in which something is to go is asked for with a quiet conditional HEAD; what differs
becomes an observation, stamped by the registry's own clock, and the plan is made again.

A tag that is not there changes nothing in the ledger: it may be in the middle of being written, and
only reconciliation forgets. But no image may go because of one that is not there.

No tag leads to what an image names and the ledger lacks: an index in an index, the subject of a
referrer. Its push was lost, and what it holds looks as if nothing needed it. So it is asked for by digest.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ledger.contents import content_of_manifest, may_be_manifests
from ledger.facts import Content, ContentLearned, Fact
from ledger.reading import ManifestView
from ledger.reconcile import Floor
from quota.looking import (
    MENDS_A_TAG,
    Look,
    each,
    look_at,
    only_this,
    parsed,
    seen,
    stamp_of,
    what_is,
)
from quota.snapshot import Snapshot
from registry.answers import FetchedManifest
from registry.client import RegistryClient
from registry.errors import NotFound, RegistryError
from registry.manifests import ManifestError
from registry.names import format_digest
from registry.timestamps import to_ns
from runtime.logs import get_logger
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

_MOST_READ = 500
_TAGS_AT_ONCE = 200


async def read_manifests(client: RegistryClient, views: Iterable[ManifestView]) -> list[Fact]:
    """Fetch manifests whose subject is not known; those that cannot be read stay unknown (kept)."""
    facts: list[Fact] = []
    for view in list(views)[:_MOST_READ]:
        try:
            fetched = await client.get_manifest(view.repository, view.digest)
            content = content_of_manifest(await parsed(fetched))
        except (RegistryError, ManifestError) as error:
            log.info("subject_still_unknown", repository=view.repository, reason=str(error))
            continue
        if content is not None:
            facts.append(
                ContentLearned(
                    DEFAULT_REGISTRY,
                    view.repository,
                    view.digest,
                    fetched.media_type,
                    len(fetched.body),
                    content,
                )
            )
    return facts


@dataclass(slots=True)
class Differences:
    """What the registry says of a repository's tags and the ledger does not."""

    facts: list[Fact] = field(default_factory=list)
    not_found: frozenset[bytes] = frozenset()
    """Digests for which the ledger has tags, and the registry answers for none of them."""
    unanswered: set[str] = field(default_factory=set)
    """Tags of the ledger that the registry does not answer, whatever else names their digests."""
    doubted: dict[bytes, str] = field(default_factory=dict)
    """Digests that a tag names which cannot be read, or is said to name; a sentence each."""
    unnamed: str | None = None
    """Why anything without a tag may be needed: what may name it cannot be read. A sentence."""
    unlisted: str | None = None
    """Why nothing is known of the repository's tags."""


async def differences(
    client: RegistryClient,
    snapshot: Snapshot,
    repository: str,
    *,
    floor: Floor,
    new_id: Callable[[], UUID],
) -> Differences:
    """Ask for every tag that either of them knows.

    What cannot be read by itself is doubted. Raises RegistryError when the registry as a whole does
    not answer.

    A tag whose push nobody told of came to name what it names after `floor`.
    """
    known = {
        tag: view.digest
        for view in snapshot.manifests
        if view.repository == repository and view.registry == DEFAULT_REGISTRY
        for tag in view.tags
    }
    found = Differences()
    try:
        listed = {tag async for tag in client.list_tags(repository)}
    except RegistryError as error:
        await only_this(client, error)
        found.unlisted = f"the tags of {repository} cannot be listed ({error})"
        return found
    tags = sorted(listed | known.keys())
    answered: set[bytes | None] = set()
    for start in range(0, len(tags), _TAGS_AT_ONCE):
        # The client itself bounds how many requests are open.
        for tag, digest in await each(
            tags[start : start + _TAGS_AT_ONCE],
            lambda tag: _ask(client, repository, tag, known.get(tag), found, floor, new_id),
        ):
            answered.add(digest)
            if digest is not None and digest != known.get(tag):
                log.warning("ledger_corrected", repository=repository, tag=tag)
    found.not_found = frozenset(set(known.values()) - answered)
    return found


async def _ask(
    client: RegistryClient,
    repository: str,
    tag: str,
    known: bytes | None,
    found: Differences,
    floor: Floor,
    new_id: Callable[[], UUID],
) -> bytes | None:
    """What a tag names, if that can be told; a difference goes into `found`."""
    named: bytes | None = None
    try:
        named = (await client.tag_digest(repository, tag, known)).digest
        if named is None and known is not None:
            found.unanswered.add(tag)
        if named is None or named == known:
            return named
        fact = await _tag_seen(client, repository, tag, named, floor.of(tag), new_id)
    except (RegistryError, ManifestError) as error:
        await only_this(client, error)
        doubt = f"its tag {repository}:{tag} cannot be read ({error}); {MENDS_A_TAG}"
        log.warning("tag_unreadable", repository=repository, tag=tag, reason=str(error))
        # It may still name what it named, or what it is said to name by now.
        found.doubted |= {digest: doubt for digest in (known, named) if digest is not None}
        if known is None and named is None:
            found.unnamed = f"it may be what a tag names: {doubt.removeprefix('its ')}"
        return None
    if fact is None:
        return None
    found.facts.append(fact)
    return named


async def _tag_seen(
    client: RegistryClient,
    repository: str,
    tag: str,
    digest: bytes,
    since: int | None,
    new_id: Callable[[], UUID],
) -> Fact | None:
    """The fact that a tag names this. Raises RegistryError, ManifestError."""
    try:
        look = await look_at(await client.get_manifest(repository, digest))
    except NotFound:
        return None
    if look.content is None:
        raise ManifestError(f"{look.media_type!r} is a media type that is not understood")
    stamp = stamp_of(look.date, new_id)
    return seen(repository, look, stamp, tag=tag, named=since)


async def unknown_parts(
    client: RegistryClient,
    repository: str,
    views: Sequence[ManifestView],
    asked: set[bytes],
    *,
    new_id: Callable[[], UUID],
) -> Differences:
    """Ask for what the manifests of a repository name and the ledger does not have, and so on below it.

    `views` are all that exist there, `asked` the digests that were asked for already; it grows. Where
    one cannot be read, what has no tag may belong to it (`unnamed`). Raises RegistryError when the
    registry as a whole does not answer.
    """
    known = {view.digest for view in views}
    found = Differences()
    wanted: dict[bytes, int] = {}
    for view in views:
        wanted |= _named_in(view.content, view.age.ns)
    while todo := sorted(wanted.keys() - known - asked):
        asked.update(todo)
        for start in range(0, len(todo), _TAGS_AT_ONCE):
            for digest, look in await each(
                todo[start : start + _TAGS_AT_ONCE],
                lambda digest: _part(client, repository, digest, found),
            ):
                if look is None:
                    continue
                log.warning("ledger_corrected", repository=repository, digest=format_digest(digest))
                # Of no known age it counts as new.
                age = wanted[digest] if wanted[digest] >= 0 else to_ns(look.date)
                stamp = stamp_of(look.date, new_id)
                found.facts.append(seen(repository, look, stamp, created=age))
                wanted |= _named_in(look.content, age)
    return found


def _named_in(content: Content | None, age_ns: int) -> dict[bytes, int]:
    """What a manifest names that may be one, and how old that is: parts are as old as what holds them.

    -1 for a subject, which may be of any age.
    """
    named = dict.fromkeys(may_be_manifests(content), age_ns)
    if content is not None and content.subject is not None:
        named[content.subject] = -1
    return named


async def _part(
    client: RegistryClient, repository: str, digest: bytes, found: Differences
) -> Look | None:
    """A manifest that another one names, where it is there."""
    name = f"{repository}@{format_digest(digest)}"
    try:
        stored = await what_is(client, repository, digest)
        if isinstance(stored, FetchedManifest):
            return await look_at(stored)
        # An index may name blobs, and what was never pushed. That one is a blob is proved by its bytes: of
        # a manifest that is damaged a cache may say the same.
        if stored is None or await client.has_blob(repository, digest) is not False:
            return None
        why = "its data is not there"
    except (RegistryError, ManifestError) as error:
        await only_this(client, error)
        why = str(error)
    found.unnamed = f"it may belong to {name}, which cannot be read ({why})"
    return None
