"""Images that cannot be pulled, found by asking for them: announced once, shown until they are whole.

A row ends when the image can be pulled again or exists no more. Never commits.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ledger import outbox
from ledger.outbox import NewId, QuotaEvent
from ledger.reading import LIVE_TAG_CONDITION, PUSHED
from registry.names import format_digest
from runtime.postgres import Connection

Image = tuple[str, bytes]
"""(repository, digest), in one registry."""


class Unreadable(msgspec.Struct, frozen=True):
    """An image that cannot be pulled."""

    workspace: str
    registry: str
    repository: str
    app: str
    digest: bytes
    tags: tuple[str, ...]
    reason: str
    since: datetime


# Which of them nobody knew of yet: they are announced. The workspaces' rows are locked first, in order.
SAVE = """
WITH given AS (SELECT * FROM unnest($2::text[], $3::bytea[], $4::text[]) AS g(repository, digest, reason)),
found AS (
  SELECT r.id, g.digest, g.reason FROM given g
  JOIN repositories r ON r.registry = $1 AND r.name = g.repository
  JOIN manifests m ON m.repository_id = r.id AND m.digest = g.digest AND m.present)
INSERT INTO unreadable_images AS u (repository_id, digest, reason, since)
SELECT id, digest, reason, $5 FROM found ORDER BY id, digest
ON CONFLICT (repository_id, digest) DO UPDATE SET reason = excluded.reason
RETURNING u.repository_id, u.digest, (xmax = 0) AS fresh
"""

LOCK = """
SELECT FROM workspaces WHERE id IN (
  SELECT r.workspace_id FROM repositories r WHERE r.registry = $1 AND r.name = ANY($2::text[]))
ORDER BY id FOR NO KEY UPDATE
"""

CLEAR = """
DELETE FROM unreadable_images u USING repositories r, unnest($2::text[], $3::bytea[]) AS g(repository, digest)
WHERE r.id = u.repository_id AND r.registry = $1 AND r.name = g.repository AND u.digest = g.digest
"""

# Rows of what exists no more are of no use to anybody.
TIDY = """
DELETE FROM unreadable_images u WHERE NOT EXISTS (
  SELECT FROM manifests m WHERE m.repository_id = u.repository_id AND m.digest = u.digest AND m.present)
"""

LIST = f"""
SELECT w.id AS workspace_id, w.name AS workspace, r.registry, r.name AS repository, r.app, u.digest,
       ARRAY(SELECT t.name FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest
             AND {LIVE_TAG_CONDITION} ORDER BY t.name) AS tags,
       u.reason, u.since, u.repository_id
FROM unreadable_images u
JOIN repositories r ON r.id = u.repository_id
JOIN workspaces w ON w.id = r.workspace_id
JOIN manifests m ON m.repository_id = u.repository_id AND m.digest = u.digest AND m.present
WHERE ($1::int8 IS NULL OR r.workspace_id = $1)
ORDER BY w.name, r.name, u.since, u.digest LIMIT $2
"""  # noqa: S608 - a constant

# The newest tagged images of each app, as many of each kind as its policy keeps, and what could not
# be pulled before. Which apps come first is another matter in every pass: all have their turn.
PLACES = f"""
SELECT repository, digest FROM (
  SELECT r.name AS repository, m.digest, u.digest IS NOT NULL AS before, hashtextextended(r.name, $3) AS turn,
         coalesce((w.policy ->> 'keep_newest')::int, $4) AS kept,
         row_number() OVER (
           PARTITION BY r.workspace_id, r.app, m.media_type, m.config_media_type, m.artifact_type
           ORDER BY {PUSHED} DESC, m.digest) AS place
  FROM repositories r
  JOIN workspaces w ON w.id = r.workspace_id
  JOIN manifests m ON m.repository_id = r.id AND m.present
  LEFT JOIN unreadable_images u ON u.repository_id = m.repository_id AND u.digest = m.digest
  WHERE r.registry = $1 AND ($2::text IS NULL OR w.name = $2)
    AND EXISTS (SELECT FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest
                AND {LIVE_TAG_CONDITION})
) AS ranked
WHERE place <= kept OR before ORDER BY before DESC, place, turn, digest LIMIT $5
"""  # noqa: S608 - a constant


async def of_workspace(
    connection: Connection, workspace_id: int | None, *, limit: int = 1000
) -> list[Unreadable]:
    """What cannot be pulled, as far as it was asked for; of all workspaces with None."""
    return [_unreadable(row) for row in await connection.fetch(LIST, workspace_id, limit)]


def _unreadable(row: Any) -> Unreadable:
    return Unreadable(
        row["workspace"],
        row["registry"],
        row["repository"],
        row["app"],
        row["digest"],
        tuple(row["tags"]),
        row["reason"],
        row["since"],
    )


async def places(
    connection: Connection,
    registry: str,
    workspace: str | None,
    *,
    turn: int,
    keep_newest: int,
    limit: int,
) -> dict[str, frozenset[bytes]]:
    """Repository → manifests that hold an app's places; `keep_newest` is the default policy's.

    `turn`: another order of apps for each number, where there are more than `limit`.
    """
    found: dict[str, set[bytes]] = {}
    rows = await connection.fetch(PLACES, registry, workspace, turn, keep_newest, limit)
    for row in rows:
        found.setdefault(row["repository"], set()).add(row["digest"])
    return {repository: frozenset(digests) for repository, digests in found.items()}


async def keep(
    connection: Connection,
    registry: str,
    *,
    broken: Mapping[Image, str],
    whole: Collection[Image],
    now: datetime,
    new_id: NewId,
) -> None:
    """What asking for images came to. `broken`: image → why. In a transaction of the caller's."""
    await connection.execute(
        CLEAR, registry, [name for name, _digest in whole], [digest for _name, digest in whole]
    )
    if not broken:
        return
    names = [name for name, _digest in broken]
    digests = [digest for _name, digest in broken]
    await connection.execute(LOCK, registry, names)
    saved = await connection.fetch(SAVE, registry, names, digests, list(broken.values()), now)
    fresh = {(row["repository_id"], row["digest"]) for row in saved if row["fresh"]}
    if not fresh:
        return
    rows: Sequence[Any] = await connection.fetch(LIST, None, None)
    events = [
        QuotaEvent(
            row["workspace_id"],
            row["workspace"],
            outbox.IMAGE_UNREADABLE,
            {
                "repository": row["repository"],
                "app": row["app"],
                "digest": format_digest(row["digest"]),
                "tags": list(row["tags"]),
                "reason": row["reason"],
            },
        )
        for row in rows
        if (row["repository_id"], row["digest"]) in fresh
    ]
    await outbox.add_events(connection, events, now=now, new_id=new_id)


async def tidy(connection: Connection) -> None:
    """Forget what exists no more."""
    await connection.execute(TIDY)
