"""What new pushes do to the reservations of their app, and what an app usually pushes. PURE.

A push counts once: only when it moves a stamp of the ledger (`tagged_push`) or makes the workspace
hold something (`Arrival`) is it new, so duplicates and replays change nothing here. Reservations
made after a push, by its own time, are none of its business.
"""

import struct
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final
from uuid import UUID

import msgspec

from ledger.facts import NEVER, ManifestPushed, RepositoryFact
from ledger.fold import RACE_NS, State
from registry.following import subject_of_tag, tags_named_by
from registry.kinds import ATTACHED, CACHE, own_kind

MOST_REMEMBERED: Final = 50
"""Pushes of one app that are remembered: enough for a percentile, little to write."""

_ENTRY = struct.Struct(">8sQ?")
_KEY_BYTES = 8


class TaggedPush(msgspec.Struct, frozen=True, gc=False):
    """A push by tag that the ledger had not heard of."""

    ns: int
    """Event time."""
    digest: bytes
    tag: str
    moved: bool
    """Whether the tag named something else, or nothing, before."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A manifest that began to exist, or whose content became known."""

    ns: int
    """Time of its newest push."""
    digest: bytes
    new_bytes: int
    """Bytes that its workspace did not hold before."""
    children: tuple[bytes, ...] = ()
    more: bool = False
    """Whether it existed already, and only its content is news."""


class Reserved(msgspec.Struct):
    """A reservation of an app, while it has not expired. Settled ones keep 0 bytes till then."""

    id: UUID
    created_ns: int
    left_bytes: int
    settled_by: bytes | None = None
    """Digest of the push that closed it: further tags on it are the same build's."""
    settled_tag: str | None = None
    settled_ns: int = -1

    @property
    def open(self) -> bool:
        """Whether its build has not pushed its image yet."""
        return self.settled_by is None


def tagged_push(state: State, repository_id: int, fact: RepositoryFact) -> TaggedPush | None:
    """The push by tag that a fact tells, when it is new. Ask before the fact is folded."""
    if not isinstance(fact, ManifestPushed) or fact.tag is None:
        return None
    tag = state.tags.get((repository_id, fact.tag))
    manifest = state.manifests.get((repository_id, fact.digest))
    if fact.stamp <= (NEVER if tag is None else tag.set) and fact.stamp <= (
        NEVER if manifest is None else manifest.push
    ):
        return None
    if subject_of_tag(fact.tag) is not None or _comes_along(fact):
        return None
    ns = fact.stamp[0]
    if fact.arrived_ns >= 0:
        if tag is not None and tag.odd is not None and tag.odd.knows("set", fact.stamp):
            return None
        ns = min(ns, fact.arrived_ns + state.skew_ns)
    moved = tag is None or tag.digest != fact.digest
    return TaggedPush(ns, fact.digest, fact.tag, moved)


def _comes_along(push: ManifestPushed) -> bool:
    """Whether it is nothing that a build is for: its cache, or an SBOM or signature beside its image."""
    content = push.content
    if content is None:
        return False
    kind = own_kind(
        push.media_type,
        content.config_media_type,
        content.artifact_type,
        document_read=content.subject_known,
    )
    if kind is None or kind.name == "artifact":
        # What kind of artifact it is no notification tells; its tag may say what it is about.
        named = next(tags_named_by(push.tag or ""), None)
        return bool(content.config_media_type) and named is not None
    return kind == CACHE or kind.name in ATTACHED


def settle(
    reserved: Sequence[Reserved], arrivals: Iterable[Arrival], pushes: Iterable[TaggedPush]
) -> list[Reserved]:
    """Let an app's pushes use up its reservations (oldest first); returns those that changed.

    New bytes reduce the oldest reservation that was open when they were pushed; a push by tag
    closes it, once for each image, however many tags it gets.
    """
    changed: dict[UUID, Reserved] = {}
    # At one moment the bytes come before the tag that closes.
    moments: list[Arrival | TaggedPush] = [*arrivals, *pushes]
    for moment in sorted(moments, key=attrgetter("ns")):
        if isinstance(moment, Arrival):
            if any(item.settled_by == moment.digest for item in reserved):
                continue  # an image that has closed its build's already, under another tag
            current = next(
                (
                    item
                    for item in reserved
                    if item.created_ns < moment.ns and (item.open or item.settled_ns >= moment.ns)
                ),
                None,
            )
            if current is not None and current.open and moment.new_bytes:
                current.left_bytes = max(0, current.left_bytes - moment.new_bytes)
                changed[current.id] = current
        elif not any(_same_build(item, moment) for item in reserved):
            oldest = next(
                (item for item in reserved if item.open and item.created_ns < moment.ns), None
            )
            if oldest is not None:
                oldest.left_bytes, oldest.settled_by = 0, moment.digest
                oldest.settled_tag, oldest.settled_ns = moment.tag, moment.ns
                changed[oldest.id] = oldest
    return list(changed.values())


def _same_build(settled: Reserved, push: TaggedPush) -> bool:
    """Whether the build that closed a reservation has pushed this, too.

    Another tag on its image; or, within seconds, the same image again or the same tag again: some
    clients push the children of an index under the index's tag.
    """
    if settled.settled_by is None:
        return False
    soon = abs(push.ns - settled.settled_ns) < RACE_NS
    if settled.settled_by == push.digest:
        return push.moved or soon
    return settled.settled_tag == push.tag and soon


class Remembered(msgspec.Struct, gc=False):
    """One push of an app."""

    key: bytes
    """The first bytes of its digest."""
    new_bytes: int
    tagged: bool = False


def remember(
    history: list[Remembered], arrivals: Iterable[Arrival], pushes: Iterable[TaggedPush]
) -> list[Remembered]:
    """An app's history with new pushes in it, oldest first, the last `MOST_REMEMBERED`.

    An index takes over what its children brought: they are one push.
    """
    known = {item.key: item for item in history}
    for arrival in sorted(arrivals, key=attrgetter("ns")):
        key, fresh = arrival.digest[:_KEY_BYTES], arrival.new_bytes
        item = known.setdefault(key, Remembered(key, 0))
        item.new_bytes = item.new_bytes + fresh if arrival.more else max(item.new_bytes, fresh)
        for child in arrival.children:
            absorbed = known.pop(child[:_KEY_BYTES], None)
            if absorbed is not None and absorbed is not item:
                item.new_bytes += absorbed.new_bytes
        known[key] = item
    for push in pushes:
        tagged = known.get(push.digest[:_KEY_BYTES])
        if tagged is not None:
            tagged.tagged = True
    return list(known.values())[-MOST_REMEMBERED:]


def samples(history: Iterable[Remembered]) -> list[int]:
    """New unique bytes of each push by tag."""
    return [item.new_bytes for item in history if item.tagged]


def pack_history(history: Iterable[Remembered]) -> bytes:
    """A history as a column holds it."""
    return b"".join(
        _ENTRY.pack(item.key, min(item.new_bytes, 2**63), item.tagged) for item in history
    )


def unpack_history(packed: bytes) -> list[Remembered]:
    """A column as a history."""
    return [Remembered(*fields) for fields in _ENTRY.iter_unpack(packed)]
