"""Which images appeared, got a tag, or went: `image.recorded.v1` and `image.removed.v1`. PURE.

Events follow from changes of the state, not from notifications: a duplicate announces nothing.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from ledger import outbox
from ledger.fold import Manifest, ManifestKey, State, Tag, TagKey
from ledger.outbox import QuotaEvent
from registry.names import format_digest


class Names(Protocol):
    """A repository's names."""

    @property
    def registry(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def workspace_id(self) -> int: ...  # noqa: D102
    @property
    def app(self) -> str: ...  # noqa: D102


class Named(Protocol):
    """A workspace's name."""

    name: str


def image_events(
    before: State,
    after: State,
    changed_manifests: Mapping[ManifestKey, Manifest],
    changed_tags: Mapping[TagKey, Tag],
    repositories: Mapping[int, Names],
    workspaces: Mapping[int, Named],
) -> list[QuotaEvent]:
    """The events of one batch, in the order of pushes and deletes."""
    gained: dict[ManifestKey, list[str]] = defaultdict(list)
    for tag_key, tag in changed_tags.items():
        if tag.digest is None:
            continue
        named = (tag_key[0], tag.digest)
        old = before.tags.get(tag_key)
        was_live = (
            old is not None and old.digest == tag.digest and old.live(before.manifests.get(named))
        )
        if tag.live(after.manifests.get(named)) and not was_live:
            gained[named].append(tag_key[1])
    lost = _tags_by_manifest(before)
    moments: list[tuple[int, ManifestKey, str]] = []
    for key in changed_manifests.keys() | gained.keys():
        old_manifest, manifest = before.manifests.get(key), after.manifests[key]
        was_present = old_manifest is not None and old_manifest.present
        if manifest.present and (not was_present or key in gained):
            moments.append((manifest.known[0], key, outbox.IMAGE_RECORDED))
        elif was_present and not manifest.present:
            moments.append((manifest.delete[0], key, outbox.IMAGE_REMOVED))
    events = []
    for moment, key, kind in sorted(moments):
        repository, manifest = repositories[key[0]], after.manifests[key]
        tags = sorted(gained[key] if kind == outbox.IMAGE_RECORDED else lost.get(key, []))
        data = {
            "registry": repository.registry,
            "repository": repository.name,
            "app": repository.app,
            "digest": format_digest(key[1]),
            "tags": tags,
            "media_type": manifest.media_type,
            "size_bytes": image_size(after.manifests, key),
            "pushed_at" if kind == outbox.IMAGE_RECORDED else "deleted_at": rfc3339(moment),
        }
        events.append(
            QuotaEvent(
                repository.workspace_id, workspaces[repository.workspace_id].name, kind, data
            )
        )
    return events


def _tags_by_manifest(state: State) -> dict[ManifestKey, list[str]]:
    found: dict[ManifestKey, list[str]] = defaultdict(list)
    for (repository_id, name), tag in state.tags.items():
        if tag.digest is not None:
            named = (repository_id, tag.digest)
            if tag.live(state.manifests.get(named)):
                found[named].append(name)
    return found


def image_size(manifests: Mapping[ManifestKey, Manifest], key: ManifestKey) -> int | None:
    """Declared bytes of config and layers; of an index: the distinct blobs of all its children.

    None while the size is pending.
    """
    top = manifests.get(key)
    if top is None or top.content is None:
        return None
    if not top.content.children:
        return sum([size for _digest, size in top.content.blobs])
    blobs: dict[bytes, int] = {}
    seen = {key[1]}
    waiting = [top.content]
    while waiting:
        content = waiting.pop()
        for digest, size in content.blobs:
            blobs[digest] = max(size, blobs.get(digest, 0))
        for digest in content.children:
            child = manifests.get((key[0], digest))
            if (
                digest not in seen
                and child is not None
                and child.present
                and child.content is not None
            ):
                seen.add(digest)
                waiting.append(child.content)
    return sum(blobs.values())


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch → fixed-width UTC text with microseconds."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=64)  # the pushes of a batch are of few seconds
def _to_the_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
