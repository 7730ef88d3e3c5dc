"""Putting a kept manifest back: by digest and by tag, read again, told to the ledger as a look.

The registry's clock orders it behind the delete; the time of its own push stays what it was.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

from ledger import undo
from ledger.contents import content_of_manifest
from ledger.facts import Fact, ManifestSeen
from ledger.marks import own_marks
from ledger.record import Recorded
from ledger.undo import Kept
from quota.deleting import Tools
from quota.kinds import of_content
from quota.looking import Blob, answered, contradicts, each, require_date, stamp_of, what_is
from quota.plan import ManifestKey
from registry.client import USER_AGENT
from registry.errors import RegistryError, WrongContent
from registry.following import all_tags_named_by, may_follow, subject_of_tag
from registry.manifests import ManifestError, parse_manifest
from registry.marks import restoring
from registry.media_types import descriptor_kind
from registry.models import ParsedManifest
from registry.timestamps import to_ns
from runtime.postgres import Connection

_MOST_WAITS = 15
_WAIT_SECONDS = 0.2


class GoneError(Exception):
    """It cannot be put back: `missing` are digests that its registry has no more."""

    def __init__(self, message: str, missing: Sequence[bytes] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


def parsed_of(kept: Kept) -> ParsedManifest | None:
    """What a kept document refers to; None when it cannot be read."""
    try:
        return parse_manifest(kept.document, kept.recorded.item.media_type)
    except ManifestError:
        return None


async def missing_of(tools: Tools, kept: Kept) -> list[bytes]:
    """What it needs and the registry has no more: blobs, or the children of an index."""
    item, parsed = kept.recorded.item, parsed_of(kept)
    if parsed is None:
        return []
    # What has `urls` may never have been here: a registry that insists on it says so at the PUT.
    kinds = {r.digest: descriptor_kind(r.media_type) for r in parsed.references if not r.has_urls}

    async def there(digest: bytes) -> bool:
        # What is called a blob is one, and so is whatever an image names that is not called a manifest.
        if kinds[digest] == "manifest" or (kinds[digest] == "unknown" and parsed.kind == "index"):
            stored = await what_is(tools.client, item.repository, digest)
            if not isinstance(stored, Blob):
                return stored is not None
        # Where storage may not be asked, the registry's word has to do: its PUT decides.
        return await tools.client.has_blob(item.repository, digest) is not False

    return [digest for digest, found in await each(list(kinds), there) if not found]


async def put_back(
    tools: Tools, kept: Kept, tags: Sequence[str], *, source: str, note: str | None = None
) -> Recorded:
    """Put a manifest by digest and by these tags, and record that it exists.

    Raises GoneError when the registry takes it and cannot give it back, and RegistryError.
    """
    item, client = kept.recorded.item, tools.client
    key, _since_ns = await own_marks(tools.pool)
    agent = restoring(USER_AGENT, key, item.repository, item.digest, kept.run_id)
    references: list[str | bytes] = [item.digest, *tags]
    for reference in references:
        await client.put_manifest(
            item.repository, reference, kept.document, item.media_type, user_agent=agent
        )
    try:
        # After a garbage collection a registry's cache may let it skip what it believes to have.
        fetched = await client.get_manifest(item.repository, item.digest)
    except RegistryError as error:
        raise GoneError(
            "the registry took it and cannot give it back: its blob cache is older than its last"
            f" garbage collection; restart the registry and try again ({error})"
        ) from error
    if fetched.body != kept.document:  # pragma: no cover - the client has checked the digest
        raise WrongContent(f"{item.repository} gave other bytes back")
    async with tools.pool.acquire() as connection:
        deleted_ns = await undo.newest_delete(connection, item.repository_id, item.digest)
    date = await _after_its_delete(tools, kept, require_date(fetched.date), deleted_ns)
    facts = _seen(tools, kept, tags, date, deleted_ns)

    async def mark(connection: Connection, _recorded: Recorded) -> None:
        await undo.mark_restored(connection, kept.run_id, item.position, note)

    return await tools.recorder.record(facts, now=tools.clock(), source=source, within=mark)


async def _after_its_delete(tools: Tools, kept: Kept, date: datetime, deleted_ns: int) -> datetime:
    """The registry's clock, once it is past the delete: its Date has whole seconds.

    A delete that was told ahead of its time is not waited for.
    """
    item = kept.recorded.item
    for _wait in range(_MOST_WAITS):
        if to_ns(date) > max(deleted_ns, kept.gone_ns - 1) or contradicts(date, deleted_ns):
            break
        await asyncio.sleep(_WAIT_SECONDS)
        head = await tools.client.head_manifest(item.repository, item.digest)
        date = require_date(head.date)
    return date


def _seen(
    tools: Tools, kept: Kept, tags: Sequence[str], date: datetime, deleted_ns: int
) -> list[Fact]:
    item, parsed = kept.recorded.item, parsed_of(kept)
    content = None if parsed is None else content_of_manifest(parsed)
    facts = [
        ManifestSeen(
            item.registry,
            item.repository,
            item.digest,
            stamp_of(date, tools.new_id),
            item.media_type,
            len(kept.document),
            tag,
            content,
            # A tag that was pushed after the plan came to name it by that push, which the ledger knows.
            named_ns=item.aged_ns if item.aged_ns >= 0 and tag in item.tags else None,
            put_back=True,
        )
        for tag in (tags or (None,))
    ]
    if not contradicts(date, deleted_ns):
        return [*facts]
    return [part for fact in facts for part in answered(fact, to_ns(date), tools.new_id)]


def with_what_it_needs(kept: Sequence[Kept], named: set[ManifestKey]) -> list[Kept]:
    """Of what a run deleted: what is named, its children, and what refers to any of them."""
    wanted = set(named)
    tags = {
        (*k.recorded.item.key[:2], tag): k.recorded.item.key
        for k in kept
        for tag in k.recorded.item.tags
    }
    # Holders stand before what they hold.
    for k in kept:
        key = k.recorded.item.key
        if _refers_to(k, wanted, tags):
            wanted.add(key)
        if key in wanted and (parsed := parsed_of(k)) is not None:
            wanted |= {(*key[:2], child.digest) for child in parsed.children}
    return [k for k in kept if k.recorded.item.key in wanted]


def _refers_to(
    kept: Kept, wanted: set[ManifestKey], tagged: Mapping[tuple[str, str, str], ManifestKey]
) -> bool:
    """Whether its subject, by field or by tag, is among these. `tagged`: what each tag named."""
    item, parsed = kept.recorded.item, parsed_of(kept)
    named = {subject_of_tag(tag) for tag in item.tags}
    subject = None if parsed is None else parsed.subject
    content = None if parsed is None else content_of_manifest(parsed)
    if may_follow(of_content(item.media_type, content)) and any(
        tagged.get((*item.key[:2], name)) in wanted - {item.key}
        for name in all_tags_named_by(item.tags)
    ):
        return True
    return any(
        key[:2] == item.key[:2] and (key[2] == subject or (len(key[2]), key[2][:32]) in named)
        for key in wanted
    )
