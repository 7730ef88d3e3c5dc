"""Images of a workspace, a page at a time: cost follows the page, not the workspace."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from ledger.facts import Content
from ledger.fold import ManifestKey
from ledger.packing import unpack_digests
from ledger.reading import (
    LIVE_TAG_CONDITION,
    MANIFEST_COLUMNS,
    NAMED,
    PUSHED,
    ManifestView,
    NamedTag,
    named_tag,
    view_of_row,
)
from registry.following import DIGEST_TAG
from runtime.postgres import Connection

# Newest push first; the cursor is the last row's key.
PAGE = f"""
SELECT {MANIFEST_COLUMNS}
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.workspace_id = $1 AND m.present
  AND ($2::text IS NULL OR r.app = $2)
  AND ($3::text IS NULL OR EXISTS (
        SELECT FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest
          AND t.name = $3 AND {LIVE_TAG_CONDITION}))
  AND ($4::int8 IS NULL OR ({PUSHED}, m.repository_id, m.digest) < ($4, $5::int, $6::bytea))
ORDER BY pushed_ns DESC, m.repository_id DESC, m.digest DESC
LIMIT $7
"""  # noqa: S608 - constants

SOME = f"""
SELECT {MANIFEST_COLUMNS}
FROM unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest)
JOIN manifests m USING (repository_id, digest) JOIN repositories r ON r.id = m.repository_id
WHERE m.present
"""  # noqa: S608 - constants

ONE = f"""
SELECT {MANIFEST_COLUMNS}
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.registry = $1 AND r.name = $2 AND m.digest = $3 AND m.present
"""  # noqa: S608 - constants

TAGS = f"""
SELECT t.repository_id, t.digest, t.name, {NAMED}
FROM unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest)
JOIN manifests m USING (repository_id, digest)
JOIN tags t USING (repository_id, digest)
WHERE {LIVE_TAG_CONDITION}
ORDER BY t.name
"""  # noqa: S608 - constants

INDEXES = """
SELECT repository_id, digest, children, pulled_ns FROM manifests
WHERE repository_id = ANY($1::int[]) AND present AND children IS NOT NULL
"""

# What the kinds of an app's manifests follow from, each once.
SHAPES = """
SELECT DISTINCT r.app, m.media_type, coalesce(m.config_media_type, '') AS config_media_type,
       coalesce(m.artifact_type, '') AS artifact_type, m.subject_known, m.blobs IS NULL AS pending,
       m.claimed_ns >= 0 AS claimed
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.workspace_id = $1 AND r.app = ANY($2::text[]) AND m.present AND m.subject IS NULL
"""

# Tagged images of each row (an app's images, its charts …), the newest first, by the shapes that stand
# in it and by the age that `naming.age_of` gives them. A tag that names a digest (`sha256-<hex>.sig`)
# makes none. What an index holds and what follows another tag are told apart afterwards: few are in the
# way.
NEWEST = f"""
SELECT place.number, newest.repository_id, newest.digest
FROM unnest($2::int[], $3::text[]) AS place(number, app)
CROSS JOIN LATERAL (
  SELECT tag.repository_id, tag.digest,
         coalesce(nullif(max(tag.named_ns), -1), max(tag.dated_ns), nullif(max(tag.created_ns), -1),
                  nullif(max(tag.first_push_ns), -1), max(tag.push_ns)) AS age_ns
  FROM (
    SELECT t.repository_id, t.digest, {NAMED}, m.dated_ns, m.created_ns, m.push_ns,
           t.name !~ '{DIGEST_TAG}' AS own
    FROM repositories r JOIN tags t ON t.repository_id = r.id
    JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
    WHERE r.workspace_id = $1 AND r.app = place.app AND m.subject IS NULL AND {LIVE_TAG_CONDITION}
      AND EXISTS (
        SELECT FROM unnest($4::int[], $5::text[], $6::text[], $7::text[])
          AS shape(number, media_type, config_media_type, artifact_type)
        WHERE shape.number = place.number AND shape.media_type = m.media_type
          AND shape.config_media_type = coalesce(m.config_media_type, '')
          AND shape.artifact_type = coalesce(m.artifact_type, ''))
  ) tag
  GROUP BY tag.repository_id, tag.digest HAVING bool_or(tag.own)
  ORDER BY age_ns DESC, tag.digest LIMIT $8) newest
"""  # noqa: S608 - constants

TAGGED = f"""
SELECT t.repository_id, t.name, t.digest
FROM unnest($1::int[], $2::text[]) AS wanted(repository_id, name)
JOIN tags t USING (repository_id, name)
JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
WHERE {LIVE_TAG_CONDITION}
"""  # noqa: S608 - constants

PRESENT = """
SELECT m.repository_id, m.digest FROM manifests m
JOIN unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest) USING (repository_id, digest)
WHERE m.present
"""

COUNTS = f"""
SELECT
  (SELECT count(*) FROM repositories r JOIN manifests m ON m.repository_id = r.id
   WHERE r.workspace_id = $1 AND m.present) AS images,
  (SELECT count(*) FROM repositories r JOIN tags t ON t.repository_id = r.id
   JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
   WHERE r.workspace_id = $1 AND {LIVE_TAG_CONDITION}) AS tags
"""  # noqa: S608 - constants


class Cursor(msgspec.Struct, frozen=True):
    """Where a page ended."""

    pushed_ns: int
    repository_id: int
    digest: bytes


class Parent(msgspec.Struct, frozen=True):
    """An index that exists."""

    repository_id: int
    digest: bytes
    children: tuple[bytes, ...]
    pulled_ns: int


async def page(
    connection: Connection,
    workspace_id: int,
    *,
    app: str | None,
    tag: str | None,
    after: Cursor | None,
    limit: int,
) -> list[ManifestView]:
    """Images, newest push first, with their live tags."""
    key = (
        (None, None, None)
        if after is None
        else (after.pushed_ns, after.repository_id, after.digest)
    )
    rows = await connection.fetch(PAGE, workspace_id, app, tag, *key, limit)
    return await _views(connection, rows)


async def find(
    connection: Connection, registry: str, repository: str, digest: bytes
) -> ManifestView | None:
    """A manifest that exists, with its live tags."""
    views = await _views(connection, await connection.fetch(ONE, registry, repository, digest))
    return views[0] if views else None


async def some(connection: Connection, keys: Sequence[ManifestKey]) -> list[ManifestView]:
    """These images, those that exist, in the given order."""
    rows = await connection.fetch(SOME, [key[0] for key in keys], [key[1] for key in keys])
    views = {(view.repository_id, view.digest): view for view in await _views(connection, rows)}
    return [views[key] for key in keys if key in views]


async def with_children(
    connection: Connection, views: Iterable[ManifestView]
) -> dict[ManifestKey, ManifestView]:
    """The images and everything that their indexes reach, by key."""
    found = {(view.repository_id, view.digest): view for view in views}
    waiting = _children(found.values()) - found.keys()
    asked = set(waiting)
    while waiting:
        ordered = sorted(waiting)
        rows = await connection.fetch(
            SOME, [key[0] for key in ordered], [key[1] for key in ordered]
        )
        children = await _views(connection, rows)
        found |= {(view.repository_id, view.digest): view for view in children}
        waiting = _children(children) - asked - found.keys()
        asked |= waiting
    return found


async def indexes(connection: Connection, repository_ids: Iterable[int]) -> list[Parent]:
    """Every index of some repositories: an image's parents are among them."""
    return [
        Parent(
            row["repository_id"], row["digest"], unpack_digests(row["children"]), row["pulled_ns"]
        )
        for row in await connection.fetch(INDEXES, sorted(set(repository_ids)))
    ]


class Shape(msgspec.Struct, frozen=True):
    """What the kind of a manifest follows from, in an app; content None: nobody has read it."""

    app: str
    media_type: str
    content: Content | None


async def shapes(connection: Connection, workspace_id: int, apps: Iterable[str]) -> list[Shape]:
    """The shapes of what exists in some apps."""
    return [
        Shape(
            row["app"],
            row["media_type"],
            None
            if row["pending"] or row["claimed"]
            else Content(
                config_media_type=row["config_media_type"],
                artifact_type=row["artifact_type"],
                subject_known=row["subject_known"],
            ),
        )
        for row in await connection.fetch(SHAPES, workspace_id, sorted(set(apps)))
    ]


async def newest(
    connection: Connection,
    workspace_id: int,
    rows: Sequence[tuple[str, Collection[Shape]]],
    limit: int | None,
) -> list[list[ManifestKey]]:
    """For each (app, shapes that stand in a row): its tagged manifests, the newest first.

    At most `limit`; None: all of them.
    """
    numbers = range(len(rows))
    given = sorted(
        {
            (number, shape.media_type, content.config_media_type, content.artifact_type)
            for number, (_app, found) in zip(numbers, rows, strict=True)
            for shape in found
            if (content := shape.content) is not None
        }
    )
    columns: list[list[Any]] = [list(column) for column in zip(*given, strict=True)] or [[]] * 4
    keys: list[list[ManifestKey]] = [[] for _ in rows]
    for row in await connection.fetch(
        NEWEST, workspace_id, list(numbers), [app for app, _found in rows], *columns, limit
    ):
        keys[row["number"]].append((row["repository_id"], row["digest"]))
    return keys


async def tagged(
    connection: Connection, names: Iterable[tuple[int, str]]
) -> dict[tuple[int, str], bytes]:
    """(repository id, tag) → the digest that it names, of those that answer."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    rows = await connection.fetch(TAGGED, [key[0] for key in wanted], [key[1] for key in wanted])
    return {(row["repository_id"], row["name"]): row["digest"] for row in rows}


async def present(connection: Connection, keys: Iterable[ManifestKey]) -> set[ManifestKey]:
    """Those of some manifests that exist."""
    wanted = sorted(set(keys))
    rows = await connection.fetch(PRESENT, [key[0] for key in wanted], [key[1] for key in wanted])
    return {(row["repository_id"], row["digest"]) for row in rows}


async def counts(connection: Connection, workspace_id: int) -> tuple[int, int]:
    """(images, tags) of a workspace, as they are now."""
    row = await connection.fetchrow(COUNTS, workspace_id)
    return row["images"], row["tags"]


def _children(views: Iterable[ManifestView]) -> set[ManifestKey]:
    return {
        (view.repository_id, digest)
        for view in views
        if view.content is not None
        for digest in view.content.children
    }


async def _views(connection: Connection, rows: list[Any]) -> list[ManifestView]:
    tags: dict[ManifestKey, list[NamedTag]] = {}
    if rows:
        for tag in await connection.fetch(
            TAGS, [row["repository_id"] for row in rows], [row["digest"] for row in rows]
        ):
            tags.setdefault((tag["repository_id"], tag["digest"]), []).append(named_tag(tag))
    views = []
    for row in rows:
        key = (row["repository_id"], row["digest"])
        views.append(view_of_row(row, tags.get(key, ())))
    return views
