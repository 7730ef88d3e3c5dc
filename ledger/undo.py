"""What cleanups have deleted and kept the bytes of: to put back on request, or after a race."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from ledger.fold import RACE_NS
from ledger.packing import unpack_digests
from ledger.runs import RecordedItem, recorded_item
from runtime.postgres import Connection

ITEMS = """
SELECT i.run_id, i.position, i.unit, i.repository_id, r.registry, r.name AS repository, i.digest,
       i.app, i.tags, i.code, i.why, i.promised_bytes, i.push_ns,
       coalesce(i.media_type, '') AS media_type, coalesce(i.aged_ns, -1) AS aged_ns, i.state, i.freed_bytes, i.failure, i.document,
       i.gone_ns
FROM cleanup_items i
JOIN cleanup_runs c ON c.id = i.run_id
JOIN repositories r ON r.id = i.repository_id
"""

# Failed ones, too: where no answer came the DELETE may have been carried out.
OF_RUN = (
    ITEMS
    + """
WHERE ($1::int IS NULL OR c.workspace_id = $1) AND c.id = $2 AND i.document IS NOT NULL
  AND i.state IN ('deleted', 'restored', 'failed')
ORDER BY i.position
"""
)

# The newest deletion of an image in each repository that is the workspace's now, whoever's it was then,
# with all that went along.
OF_IMAGE = f"""{ITEMS}
JOIN (
  SELECT DISTINCT ON (found.repository_id) found.run_id, found.unit
  FROM cleanup_items found
  JOIN cleanup_runs run ON run.id = found.run_id
  JOIN repositories named ON named.id = found.repository_id
  WHERE named.workspace_id = $1 AND run.state <> 'running'
    AND ($2::text IS NULL OR named.name = $2)
    AND ($3::bytea IS NULL OR found.digest = $3)
    AND ($4::text IS NULL OR found.tags @> to_jsonb($4::text))
    AND found.document IS NOT NULL AND found.state IN ('deleted', 'restored', 'failed')
  ORDER BY found.repository_id, run.started_at DESC, found.position DESC
) chosen ON chosen.run_id = i.run_id AND chosen.unit = i.unit
WHERE i.document IS NOT NULL
  AND i.state IN ('deleted', 'restored', 'failed')
ORDER BY i.run_id, i.position
"""  # noqa: S608 - a constant

MARK_RESTORED = """
UPDATE cleanup_items SET state = 'restored', failure = $3 WHERE run_id = $1 AND position = $2
"""

NEWEST_DELETE = """
SELECT delete_ns FROM manifests WHERE repository_id = $1 AND digest = $2
"""

# A later run that knew the push has deleted what it had every right to.
_LATER = """
    SELECT FROM cleanup_items later
    WHERE later.repository_id = i.repository_id AND later.digest = i.digest
      AND later.push_ns > i.push_ns AND later.state IN ('deleting', 'deleted', 'restored')"""

# A push newer than the plan, and older than the end of the DELETE: the DELETE may have hit it. The
# registry's clock has told both. A delete clearly after ours is somebody's wish; replicas and proxies
# have clocks of their own, and in doubt the manifest is put back.
# Such a push by tag counts whatever came after it: when the manifest is pushed again, its newest push is
# another one, and a cleanup that finds it without its tag (ours took it) does not know better.
HIT_PUSHES = f"""{ITEMS}
JOIN manifests m ON m.repository_id = i.repository_id AND m.digest = i.digest
WHERE i.state = 'deleted' AND i.done_at > $1 AND i.document IS NOT NULL
  AND m.delete_ns <= i.gone_ns + {RACE_NS}
  AND (m.push_ns > i.push_ns AND m.push_ns <= i.gone_ns AND NOT EXISTS ({_LATER})
    OR EXISTS (
      SELECT FROM tags t
      WHERE t.repository_id = i.repository_id AND t.digest = i.digest
        AND t.set_ns > i.push_ns AND t.set_ns <= i.gone_ns
        AND (t.set_ns > t.untag_ns OR t.untag_ns <= i.gone_ns)
        AND NOT EXISTS ({_LATER} AND later.tags @> to_jsonb(t.name))))
ORDER BY i.run_id, i.position DESC
"""

# A tag that our DELETE took along was removed within its time; a later removal is somebody's wish.
PUSHED_TAGS = """
SELECT name FROM tags
WHERE repository_id = $1 AND digest = $2 AND set_ns > $3 AND (set_ns > untag_ns OR untag_ns <= $4)
ORDER BY name
"""

# Indexes pushed after the plan that still exist, in repositories of recent deletions.
NEWER_INDEXES = """
WITH recent AS (
  SELECT repository_id, min(push_ns) AS since FROM cleanup_items
  WHERE state = 'deleted' AND done_at > $1 AND document IS NOT NULL GROUP BY repository_id)
SELECT m.repository_id, m.push_ns, m.children
FROM recent JOIN manifests m ON m.repository_id = recent.repository_id
WHERE m.children IS NOT NULL AND m.present AND m.push_ns > recent.since
"""

DELETED_OF = f"""{ITEMS}
JOIN unnest($2::int[], $3::bytea[], $4::int8[]) AS needed(repository_id, digest, push_ns)
  ON needed.repository_id = i.repository_id AND needed.digest = i.digest
WHERE i.state = 'deleted' AND i.done_at > $1 AND i.document IS NOT NULL
  AND needed.push_ns > i.push_ns AND NOT EXISTS ({_LATER})
ORDER BY i.run_id, i.position DESC
"""


class Kept(msgspec.Struct, frozen=True):
    """A deleted manifest whose bytes were kept."""

    run_id: UUID
    recorded: RecordedItem
    document: bytes
    gone_ns: int
    """By the registry's clock it was gone at this moment."""


def kept_of_row(row: "dict[str, object]") -> Kept:
    """A row of `ITEMS`."""
    recorded = recorded_item(row)
    return Kept(row["run_id"], recorded, recorded.document or b"", row["gone_ns"])  # type: ignore[arg-type]


async def kept_of_run(connection: Connection, workspace_id: int | None, run_id: UUID) -> list[Kept]:
    """What a run (of a workspace, where one is named) has deleted, in the order in which it did."""
    return [kept_of_row(row) for row in await connection.fetch(OF_RUN, workspace_id, run_id)]


async def kept_of_image(
    connection: Connection,
    workspace_id: int,
    *,
    repository: str | None,
    digest: bytes | None,
    tag: str | None,
) -> list[Kept]:
    """The newest deletion of an image, with what went along, in the order of deletion."""
    rows = await connection.fetch(OF_IMAGE, workspace_id, repository, digest, tag)
    return [kept_of_row(row) for row in rows]


async def mark_restored(
    connection: Connection, run_id: UUID, position: int, note: str | None
) -> None:
    """Say of a deleted item that it is there again."""
    await connection.execute(MARK_RESTORED, run_id, position, note)


async def newest_delete(connection: Connection, repository_id: int, digest: bytes) -> int:
    """When a manifest was last deleted, in nanoseconds; -1: never."""
    found: int | None = await connection.fetchval(NEWEST_DELETE, repository_id, digest)
    return -1 if found is None else found


async def hit_pushes(connection: Connection, since: datetime) -> list[Kept]:
    """Deletions after a moment that may have hit a push which the plan did not know."""
    return [kept_of_row(row) for row in await connection.fetch(HIT_PUSHES, since)]


async def pushed_tags(
    connection: Connection, repository_id: int, digest: bytes, *, after_ns: int, gone_ns: int
) -> list[str]:
    """Tags that were set to a manifest after a moment, and that nobody took from it but its DELETE.

    Nanoseconds; `gone_ns` is when that was over.
    """
    rows = await connection.fetch(PUSHED_TAGS, repository_id, digest, after_ns, gone_ns)
    return [row["name"] for row in rows]


async def needed_again(connection: Connection, since: datetime) -> list[Kept]:
    """Deletions after a moment of what an index has as its child that was pushed after the plan."""
    needed: dict[tuple[int, bytes], int] = {}
    for row in await connection.fetch(NEWER_INDEXES, since):
        for digest in unpack_digests(row["children"]):
            key = (row["repository_id"], digest)
            needed[key] = max(row["push_ns"], needed.get(key, -1))
    if not needed:
        return []
    return await _deleted_of(connection, since, needed.items())


async def _deleted_of(
    connection: Connection, since: datetime, needed: Iterable[tuple[tuple[int, bytes], int]]
) -> list[Kept]:
    found = sorted(needed)
    rows = await connection.fetch(
        DELETED_OF,
        since,
        [key[0] for key, _push in found],
        [key[1] for key, _push in found],
        [push for _key, push in found],
    )
    return [kept_of_row(row) for row in rows]
