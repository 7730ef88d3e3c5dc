"""Who takes how much: shares of apps, sizes of images. PURE, and meant for a thread of its own."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping

import msgspec

from ledger.browsing import Contents
from ledger.fold import ManifestKey
from ledger.packing import unpack_digests
from ledger.reading import Held

_NO_SIZE = bytes(8)


class AppShare(msgspec.Struct, frozen=True):
    """An app's part of a workspace. Bytes."""

    app: str
    images: int
    """Manifests that have a tag."""
    manifests: int
    exclusive_bytes: int
    """Held by this app alone."""
    shared_bytes: int
    """Held by other apps of the workspace, too."""


class Breakdown(msgspec.Struct, frozen=True):
    """A workspace by apps and images."""

    apps: tuple[AppShare, ...]
    """The largest first."""
    images: int
    """Manifests with a tag."""
    manifests: int
    sizes: Mapping[ManifestKey, int]
    """Config and layers; of an index the distinct blobs of its children. Bytes."""
    frees: Mapping[ManifestKey, int]
    """What goes when this one is deleted with all that only it needs: children of an index that no other
    index has and no tag names, and what refers to it. Bytes."""


def break_down(contents: Iterable[Contents], held: Mapping[bytes, Held]) -> Breakdown:
    """`held` has what the workspace's account says of all their digests."""
    holders: dict[bytes, str | None] = {}
    members: dict[str, set[bytes]] = defaultdict(set)
    tagged: dict[str, int] = defaultdict(int)
    count: dict[str, int] = defaultdict(int)
    blobs_of: dict[ManifestKey, list[bytes]] = {}
    children_of: dict[ManifestKey, tuple[bytes, ...]] = {}
    sizes: dict[ManifestKey, int] = {}
    frees: dict[ManifestKey, int] = {}
    parents_of: dict[ManifestKey, set[ManifestKey]] = defaultdict(set)
    referrers_of: dict[ManifestKey, list[ManifestKey]] = defaultdict(list)
    named: set[ManifestKey] = set()
    nothing = Held(0, 0)
    for item in contents:
        key = (item.repository_id, item.digest)
        app = item.app
        count[app] += 1
        tagged[app] += item.tagged
        digests = [
            digest
            for digest, declared in _entries(item.blobs)
            if declared or not held.get(digest, nothing).named
        ]
        own = {item.digest, *digests}
        members[app] |= own
        entries = [held.get(digest, nothing) for digest in own]
        frees[key] = sum(entry.size for entry in entries if entry.refs == 1)
        sizes[key] = sum(held.get(digest, nothing).size for digest in set(digests))
        if item.children:
            children_of[key] = unpack_digests(item.children)
            for digest in children_of[key]:
                parents_of[key[0], digest].add(key)
        if item.subject:
            referrers_of[key[0], item.subject].append(key)
        if item.tagged:
            named.add(key)
        blobs_of[key] = digests
    for app, digests_of_app in members.items():
        for digest in digests_of_app:
            holders[digest] = None if digest in holders else app
    for key in children_of:
        reached = _reached(key, blobs_of, children_of)
        sizes[key] = sum(held.get(digest, nothing).size for digest in reached)
    for key in {*children_of, *referrers_of} & blobs_of.keys():
        going = _going(key, children_of, parents_of, referrers_of, named) & blobs_of.keys()
        taken = Counter(digest for one in going for digest in {one[1], *blobs_of[one]})
        frees[key] = sum(
            held[digest].size
            for digest, refs in taken.items()
            if held.get(digest, nothing).refs == refs
        )
    exclusive: dict[str, int] = defaultdict(int)
    shared: dict[str, int] = defaultdict(int)
    for app, digests_of_app in members.items():
        for digest in digests_of_app:
            size = held.get(digest, nothing).size
            if holders[digest] == app:
                exclusive[app] += size
            else:
                shared[app] += size
    apps = [AppShare(app, tagged[app], count[app], exclusive[app], shared[app]) for app in members]
    apps.sort(key=lambda item: (-item.exclusive_bytes, -item.shared_bytes, item.app))
    return Breakdown(tuple(apps), sum(tagged.values()), sum(count.values()), sizes, frees)


def digests_of(contents: Iterable[Contents]) -> set[bytes]:
    """Every digest that they hold, their own among them."""
    found: set[bytes] = set()
    for item in contents:
        found.add(item.digest)
        found.update(digest for digest, _declared in _entries(item.blobs))
    return found


def _entries(packed: bytes | None) -> list[tuple[bytes, bool]]:
    """Digests of packed blobs, in order, and whether a size is declared for them."""
    found: list[tuple[bytes, bool]] = []
    position, length = 0, len(packed or b"")
    while packed is not None and position < length:
        end = position + 1 + packed[position]
        found.append((packed[position + 1 : end], packed[end : end + 8] != _NO_SIZE))
        position = end + 8
    return found


def _going(
    top: ManifestKey,
    children_of: Mapping[ManifestKey, tuple[bytes, ...]],
    parents_of: Mapping[ManifestKey, set[ManifestKey]],
    referrers_of: Mapping[ManifestKey, list[ManifestKey]],
    named: Container[ManifestKey],
) -> set[ManifestKey]:
    """What is deleted with one manifest, itself among it."""
    going = {top}
    waiting = [top]
    while waiting:
        key = waiting.pop()
        children = ((key[0], digest) for digest in children_of.get(key, ()))
        free = [
            child
            for child in children
            if child not in named and parents_of.get(child, set()) <= going
        ]
        found = [one for one in (*free, *referrers_of.get(key, ())) if one not in going]
        going.update(found)
        waiting += found
    return going


def _reached(
    top: ManifestKey,
    blobs_of: Mapping[ManifestKey, list[bytes]],
    children_of: Mapping[ManifestKey, tuple[bytes, ...]],
) -> set[bytes]:
    reached: set[bytes] = set()
    seen = {top}
    waiting = [top]
    while waiting:
        key = waiting.pop()
        reached.update(blobs_of.get(key, ()))
        for digest in children_of.get(key, ()):
            child = (key[0], digest)
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return reached
