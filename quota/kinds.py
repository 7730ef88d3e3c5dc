"""Kinds of a workspace's manifests: what each says itself, an index by its entries, a cache by its place. PURE."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from ledger.facts import Content
from ledger.fold import ManifestKey
from ledger.reading import ManifestView
from quota.policy import Policy
from registry.globs import glob_matcher
from registry.kinds import CACHE, IMAGE, Kind, kind_of_index, own_kind
from registry.media_types import INDEX_TYPES

_LAYER_TAG: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
"""How kaniko and buildah name what they keep: by the key of a layer."""


def kinds_of(
    views: Mapping[ManifestKey, ManifestView], policy: Policy
) -> dict[ManifestKey, Kind | None]:
    """The kind of each manifest. Of an index those of its entries count that are among the views and exist."""
    in_cache = glob_matcher(policy.cache_repositories)
    kinds: dict[ManifestKey, Kind | None] = {}
    indexes: list[ManifestKey] = []
    for key, view in views.items():
        kind = of_content(view.media_type, view.content)
        if _is_layer(view, in_cache) and kind in (None, IMAGE):
            kind = CACHE
        if kind is None and view.media_type in INDEX_TYPES and view.content is not None:
            indexes.append(key)
        else:
            kinds[key] = kind
    _resolve(indexes, views, kinds)
    return kinds


def of_content(media_type: str, content: Content | None) -> Kind | None:
    """What a manifest says of itself; None while nobody has read enough of it, and of most indexes."""
    if content is None or content.claimed_ns >= 0:
        return None
    return own_kind(
        media_type,
        content.config_media_type,
        content.artifact_type,
        document_read=content.subject_known,
    )


def _is_layer(view: ManifestView, in_cache: Callable[[str], object]) -> bool:
    return (
        bool(view.tags)
        and all(map(_LAYER_TAG.fullmatch, view.tags))
        and bool(in_cache(view.repository))
    )


def _resolve(
    indexes: Collection[ManifestKey],
    views: Mapping[ManifestKey, ManifestView],
    kinds: dict[ManifestKey, Kind | None],
) -> None:
    """Indexes after the indexes in them; one that contains itself is of no kind that is known."""
    waiting = list(indexes)
    begun: set[ManifestKey] = set()
    while waiting:
        key = waiting[-1]
        entries = [
            entry
            for digest in _entries(views[key])
            if (entry := (key[0], digest)) != key and entry in views and views[entry].present
        ]
        missing = [entry for entry in entries if entry not in kinds and entry not in begun]
        begun.add(key)
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if key not in kinds:
            view = views[key]
            kinds[key] = kind_of_index(
                [kinds.get(entry) for entry in entries],
                view.media_type,
                document_read=view.content is not None and view.content.subject_known,
            )


def _entries(view: ManifestView) -> tuple[bytes, ...]:
    return () if view.content is None else view.content.children
