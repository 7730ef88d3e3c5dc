"""Figures of a workspace that need the whole graph: what no tag reaches. PURE."""

from collections.abc import Iterable, Mapping

import msgspec

from ledger.fold import ManifestKey
from ledger.reading import Held, ManifestView, blobs_held


class Untagged(msgspec.Struct, frozen=True):
    """Manifests that no live tag reaches, and the bytes that only they hold."""

    images: int
    bytes: int


def untagged(manifests: Iterable[ManifestView], held: Mapping[bytes, Held]) -> Untagged:
    """What would be left over if only tagged images and what their indexes need were kept."""
    present: dict[ManifestKey, ManifestView] = {
        (view.repository_id, view.digest): view for view in manifests if view.present
    }
    reached: set[ManifestKey] = set()
    waiting = [key for key, view in present.items() if view.tags]
    while waiting:
        key = waiting.pop()
        view = present.get(key)
        if view is None or key in reached:
            continue
        reached.add(key)
        if view.content is not None:
            waiting += [(key[0], digest) for digest in view.content.children]
    rest = [view for key, view in present.items() if key not in reached]
    only = _held_by(rest, held) - _held_by((present[key] for key in reached), held)
    return Untagged(len(rest), sum(held[digest].size for digest in only if digest in held))


def _held_by(views: Iterable[ManifestView], held: Mapping[bytes, Held]) -> set[bytes]:
    found: set[bytes] = set()
    for view in views:
        found.add(view.digest)
        found.update(blobs_held(view.content, held))
    return found
