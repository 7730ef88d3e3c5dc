"""Images as people and programs read them: sizes, unique bytes, who protects them. PURE."""

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ledger.announce import rfc3339
from ledger.fold import ManifestKey
from ledger.images import Cursor, Parent
from ledger.reading import Held, ManifestView, blobs_held
from quota.protected import Rules, protected_by
from registry.kinds import Kind
from registry.names import format_digest


class BadCursorError(ValueError):
    """The cursor is not one of ours; leave it out to begin at the start."""


def members(
    views: Mapping[ManifestKey, ManifestView], key: ManifestKey, held: Mapping[bytes, Held]
) -> set[bytes]:
    """Config and layers of an image; of an index: the distinct blobs that it and its children hold."""
    found: set[bytes] = set()
    seen = {key}
    waiting = [key]
    while waiting:
        view = views.get(waiting.pop())
        if view is None or view.content is None:
            continue
        found.update(blobs_held(view.content, held))
        for child in ((view.repository_id, digest) for digest in view.content.children):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return found


def size_bytes(
    views: Mapping[ManifestKey, ManifestView], key: ManifestKey, held: Mapping[bytes, Held]
) -> int:
    """Bytes of `members`: no documents."""
    return sum(held[digest].size for digest in members(views, key, held) if digest in held)


def digests_of(views: Iterable[ManifestView]) -> set[bytes]:
    """Every digest that these images and their documents hold, or name."""
    found: set[bytes] = set()
    for view in views:
        found.add(view.digest)
        if view.content is not None:
            found.update(digest for digest, _size in view.content.blobs)
    return found


def describe(
    page: Iterable[ManifestView],
    views: Mapping[ManifestKey, ManifestView],
    kinds: Mapping[ManifestKey, Kind | None],
    parents: Iterable[Parent],
    held: Mapping[bytes, Held],
    rules: Rules,
) -> list[dict[str, Any]]:
    """Items of `GET …/images`. `views` has the page's children, too; `held` all their digests.

    `kinds`: of the page.
    """
    parents_of: dict[ManifestKey, list[Parent]] = defaultdict(list)
    for parent in parents:
        for digest in parent.children:
            parents_of[parent.repository_id, digest].append(parent)
    return [_item(view, views, kinds, parents_of, held, rules) for view in page]


def _item(
    view: ManifestView,
    views: Mapping[ManifestKey, ManifestView],
    kinds: Mapping[ManifestKey, Kind | None],
    parents_of: Mapping[ManifestKey, list[Parent]],
    held: Mapping[bytes, Held],
    rules: Rules,
) -> dict[str, Any]:
    key = (view.repository_id, view.digest)
    above = parents_of.get(key, [])
    own = {view.digest, *blobs_held(view.content, held)}
    # A pull of an index is a pull of its children, and of a child one of its indexes.
    pulls = [view.pulled_ns, *(parent.pulled_ns for parent in above)]
    if view.content is not None:
        children = (views.get((key[0], digest)) for digest in view.content.children)
        pulls += [child.pulled_ns for child in children if child is not None]
    pulled_ns = max(pulls)
    return {
        "id": image_id(key),
        "repository": view.repository,
        "app": view.app,
        "digest": format_digest(view.digest),
        "media_type": view.media_type,
        **kind_fields(kinds[key]),
        "tags": list(view.tags),
        "size_bytes": sum(
            held[digest].size for digest in members(views, key, held) if digest in held
        ),
        "size_pending": view.content is None or view.content.claimed_ns >= 0,
        "unique_bytes": sum(
            held[digest].size for digest in own if digest in held and held[digest].refs == 1
        ),
        "pushed_at": rfc3339(view.pushed_ns) if view.pushed_ns >= 0 else None,
        "pushed_at_estimated": view.estimated,
        "named_at": rfc3339(view.age.ns) if view.age.ns >= 0 else None,
        "named_by": view.age.source,
        "last_pulled_at": rfc3339(pulled_ns) if pulled_ns >= 0 else None,
        "protected_by": protected_by(view, views, above, pulled_ns, rules),
    }


def kind_fields(kind: Kind | None) -> dict[str, Any]:
    """`kind` and `artifact_type` as the API tells them."""
    return {
        "kind": None if kind is None else kind.name,
        "artifact_type": kind.type if kind is not None and kind.type else None,
    }


def image_id(key: ManifestKey) -> str:
    """A name for one manifest of one repository that fits into a URL."""
    return f"{key[0]}.{key[1].hex()}"


def encode_cursor(view: ManifestView) -> str:
    """Where the next page begins, URL-safe."""
    text = f"{view.pushed_ns}.{view.repository_id}.{view.digest.hex()}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor:
    """Raises BadCursorError."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        pushed_ns, repository_id, digest = raw.decode("ascii").split(".")
        cursor = Cursor(int(pushed_ns), int(repository_id), bytes.fromhex(digest))
    except ValueError as error:
        raise BadCursorError(
            "the cursor is not one of ours; leave it out to begin at the start"
        ) from error
    if not (-(2**63) <= cursor.pushed_ns < 2**63 and 0 <= cursor.repository_id < 2**31):
        raise BadCursorError("the cursor is not one of ours; leave it out to begin at the start")
    return cursor
