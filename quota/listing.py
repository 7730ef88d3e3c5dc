"""A page of images as `GET …/images` and the pages tell it: what has to be read beside the page."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ledger import images as rows
from ledger import reading
from ledger.fold import ManifestKey
from ledger.images import Shape
from ledger.leases import leases_of
from ledger.reading import ManifestView, WorkspaceView
from quota.images import describe, digests_of
from quota.kinds import kinds_of, of_content
from quota.policy import Policy, parse_policy
from quota.protected import Rules, subjects_of
from quota.versions import standing
from registry.following import all_tags_named_by, may_follow, tags_named_by
from registry.kinds import CACHE, Kind
from registry.media_types import INDEX_TYPES
from registry.timestamps import to_ns
from runtime.postgres import Connection

Kinds = Mapping[ManifestKey, Kind | None]
Row = tuple[str, Kind]
"""(app, kind): what shares its places."""

_MOST_IN_THE_WAY = 100
"""Tagged children, copies and referrers among the newest of a row: more are met in odd cases only."""


async def describe_page(
    connection: Connection, workspace: WorkspaceView, page: Sequence[ManifestView], now: datetime
) -> list[dict[str, Any]]:
    """Items of a page, within the transaction in which it was read."""
    policy = parse_policy(workspace.policy)
    views = await rows.with_children(connection, page)
    kinds = kinds_of(views, policy)
    parents = await rows.indexes(connection, (view.repository_id for view in page))
    named = digests_of(views.values())
    held = await reading.held(connection, workspace.id, named)
    named |= {child for view in views.values() if view.content for child in view.content.children}
    followed = await _followed(connection, page, kinds)
    subjects = [
        (view.repository_id, digest)
        for view in page
        for digest in subjects_of(view, followed.get((view.repository_id, view.digest), ()))
    ]
    rules = Rules(
        policy=policy,
        now_ns=to_ns(now),
        leases=tuple(await leases_of(connection, workspace.id, named)),
        newest=await _newest(connection, workspace.id, page, kinds, policy),
        subjects=await rows.present(connection, subjects),
        followed=followed,
    )
    return describe(page, views, kinds, parents, held, rules)


async def _followed(
    connection: Connection, views: Iterable[ManifestView], kinds: Kinds
) -> dict[ManifestKey, list[bytes]]:
    """Manifest → what it belongs to by its tags' convention (`1.4-sbom`), where that is there."""
    asking = [view for view in views if may_follow(kinds[view.repository_id, view.digest])]
    tagged = await rows.tagged(
        connection,
        [(view.repository_id, name) for view in asking for name in all_tags_named_by(view.tags)],
    )
    found: dict[ManifestKey, list[bytes]] = {}
    for view in asking:
        for tag in view.tags:
            named = (tagged.get((view.repository_id, name)) for name in tags_named_by(tag))
            digest = next((digest for digest in named if digest is not None), view.digest)
            if digest != view.digest:
                found.setdefault((view.repository_id, view.digest), []).append(digest)
    return found


async def _newest(
    connection: Connection,
    workspace_id: int,
    page: Iterable[ManifestView],
    kinds: Kinds,
    policy: Policy,
) -> set[ManifestKey]:
    """The newest of each row that the page has something of; one in several repositories is one image."""
    wanted = sorted(
        {
            (view.app, kind)
            for view in page
            if view.tags and (kind := kinds[view.repository_id, view.digest]) not in (None, CACHE)
        }
    )
    if not wanted:
        return set()
    shapes = await rows.shapes(connection, workspace_id, (app for app, _kind in wanted))
    versions = policy.order == "semver"
    # By versions all of them have to be looked at.
    most = None if versions else 2 * policy.keep_newest + _MOST_IN_THE_WAY
    given = [(row[0], _shapes_of(row, shapes)) for row in wanted]
    keys = await rows.newest(connection, workspace_id, given, most)
    some = await rows.some(connection, sorted({key for found in keys for key in found}))
    views = await rows.with_children(connection, some)
    if versions:
        keys = [_by_version(found, views) for found in keys]
    known = kinds_of(views, policy)
    above = await rows.indexes(connection, (view.repository_id for view in some))
    bound = {(parent.repository_id, digest) for parent in above for digest in parent.children}
    bound |= (await _followed(connection, some, known)).keys()
    return {
        key
        for row, found in zip(wanted, keys, strict=True)
        for key in _first(
            [key for key in found if known[key] == row[1] and key not in bound], policy.keep_newest
        )
    }


def _shapes_of(row: Row, shapes: Iterable[Shape]) -> Collection[Shape]:
    """What may be of a row's kind. An index is what its entries are: looked at with the images."""
    app, kind = row
    return [
        shape
        for shape in shapes
        if shape.app == app
        and shape.content is not None
        and (
            of_content(shape.media_type, shape.content) == kind
            or (
                of_content(shape.media_type, shape.content) is None
                and shape.media_type in INDEX_TYPES
            )
        )
    ]


def _by_version(
    keys: Sequence[ManifestKey], views: Mapping[ManifestKey, ManifestView]
) -> list[ManifestKey]:
    """The highest version first; one image stands in several repositories by all its tags."""
    tags: dict[bytes, list[str]] = {}
    ages: dict[bytes, int] = {}
    for key in keys:
        tags.setdefault(key[1], []).extend(views[key].tags)
        ages[key[1]] = max(ages.get(key[1], -1), views[key].age.ns)
    return sorted(
        keys,
        key=lambda key: (ages[key[1]] >= 0, standing(tags[key[1]], ages[key[1]])),
        reverse=True,
    )


def _first(keys: Sequence[ManifestKey], keep: int) -> list[ManifestKey]:
    """Those of the first `keep` digests."""
    digests = list(dict.fromkeys(digest for _repository, digest in keys))[:keep]
    return [key for key in keys if key[1] in digests]
