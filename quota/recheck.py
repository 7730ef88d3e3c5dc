"""Before anything is deleted: ask the registry about what the plan rests on.

A missed event must not cost an image, nor two clients that moved one tag at once. Every tag of a
repository in which something is to go is asked for with a quiet conditional HEAD; what differs
becomes an observation, stamped by the registry's own clock, and the plan is made again.

A tag that is not there changes nothing in the ledger: it may be in the middle of being written, and
only reconciliation forgets. But no image may go because of one that is not there.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from ledger.contents import content_of_manifest
from ledger.facts import ContentLearned, Fact
from ledger.reading import ManifestView
from ledger.reconcile import Floor
from quota.looking import look_at, seen, stamp_of
from quota.snapshot import Snapshot
from registry.client import RegistryClient
from registry.errors import NotFound, RegistryError
from registry.manifests import ManifestError, parse_manifest
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
            content = content_of_manifest(parse_manifest(fetched.body, fetched.media_type))
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


@dataclass(frozen=True, slots=True)
class Differences:
    """What the registry says of a repository's tags and the ledger does not."""

    facts: list[Fact]
    not_found: frozenset[bytes]
    """Digests for which the ledger has tags, and the registry answers for none of them."""


async def differences(
    client: RegistryClient,
    snapshot: Snapshot,
    repository: str,
    *,
    floor: Floor,
    new_id: Callable[[], UUID],
) -> Differences:
    """Ask for every tag that either of them knows. Raises RegistryError.

    A tag whose push nobody told of came to name what it names after `floor`.
    """
    known = {
        tag: view.digest
        for view in snapshot.manifests
        if view.repository == repository and view.registry == DEFAULT_REGISTRY
        for tag in view.tags
    }
    listed = {tag async for tag in client.list_tags(repository)}
    tags = sorted(listed | known.keys())
    facts: list[Fact] = []
    answered: set[bytes | None] = set()
    for start in range(0, len(tags), _TAGS_AT_ONCE):
        some = tags[start : start + _TAGS_AT_ONCE]
        # The client itself bounds how many requests are open.
        states = await asyncio.gather(
            *(client.tag_digest(repository, tag, known.get(tag)) for tag in some)
        )
        for tag, state in zip(some, states, strict=True):
            answered.add(state.digest)
            if state.digest is None or state.digest == known.get(tag):
                continue
            since = floor.of(tag)
            fact = await _tag_seen(client, repository, tag, state.digest, since, new_id)
            if fact is not None:
                log.warning("ledger_corrected", repository=repository, tag=tag)
                facts.append(fact)
    return Differences(facts, frozenset(set(known.values()) - answered))


async def _tag_seen(
    client: RegistryClient,
    repository: str,
    tag: str,
    digest: bytes,
    since: int | None,
    new_id: Callable[[], UUID],
) -> Fact | None:
    try:
        look = look_at(await client.get_manifest(repository, digest))
    except NotFound:
        return None
    except ManifestError as error:
        raise RegistryError(f"{repository}:{tag} cannot be read: {error}") from error
    if look.content is None:
        raise RegistryError(f"{repository}:{tag} is of a media type that is not understood")
    stamp = stamp_of(look.date, new_id)
    return seen(repository, look, stamp, tag=tag, named=since)
