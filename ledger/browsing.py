"""What people leaf through: workspaces by fullness, images by what one looks for, newest events first.

Reads only; never locks. Text that is looked for is compared as it is, without patterns.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from ledger.fold import ManifestKey
from ledger.reading import LIVE_TAG_CONDITION, PUSHED
from runtime.postgres import Connection

BY_FULLNESS = """
SELECT w.id, w.name, w.quota_bytes, w.usage_bytes, w.level, w.enforcement,
       (SELECT least(coalesce(sum(v.bytes), 0), 4611686018427387904) FROM reservations v
         WHERE v.workspace_id = w.id AND v.expires_at > $1)::int8 AS reserved_bytes,
       EXISTS (SELECT FROM cleanup_runs c WHERE c.workspace_id = w.id AND c.state = 'running')
         AS cleaning
FROM workspaces w
WHERE (w.first_image_at IS NOT NULL OR w.configured)
  AND ($2::text[] IS NULL OR w.name = ANY($2))
  AND ($3::text IS NULL OR position(lower($3) IN lower(w.name)) > 0)
ORDER BY w.usage_bytes::numeric / w.quota_bytes DESC, w.name
OFFSET $4 LIMIT $5
"""

TOTALS = """
SELECT count(*) AS workspaces, coalesce(sum(usage_bytes), 0)::int8 AS usage_bytes,
       count(*) FILTER (WHERE level = 'warning') AS warning,
       count(*) FILTER (WHERE level = 'critical') AS critical,
       count(*) FILTER (WHERE level = 'exceeded') AS exceeded
FROM workspaces w
WHERE (w.first_image_at IS NOT NULL OR w.configured) AND ($1::text[] IS NULL OR w.name = ANY($1))
"""

_ORDERS: Final = {
    "pushed": "pushed_ns DESC, repository_id DESC, digest DESC",
    "-pushed": "pushed_ns, repository_id, digest",
    "pulled": "pulled_ns DESC, repository_id DESC, digest DESC",
    "-pulled": "pulled_ns, repository_id, digest",
    "name": "repository, pushed_ns DESC, digest DESC",
    "-name": "repository DESC, pushed_ns DESC, digest DESC",
}
ORDERS: Final = frozenset(_ORDERS)

# Narrow rows are sorted, and only those of the page are read whole. What is looked for is part of a
# repository's, app's or tag's name, or the beginning of a digest in hexadecimal.
# With $7 what an index holds is left out, where no tag names it: it stands with the index. (Entries of the
# packed children are a length and 32 bytes; one of another algorithm is shown by itself.)
_KEYS = """
WITH here AS (SELECT id, name, app FROM repositories WHERE workspace_id = $1),
parts AS (
  SELECT i.repository_id, substring(i.children FROM 2 + 33 * n FOR 32) AS digest
  FROM here JOIN manifests i ON i.repository_id = here.id
  CROSS JOIN LATERAL generate_series(0, octet_length(i.children) / 33 - 1) AS n
  WHERE $7 AND i.present AND i.children IS NOT NULL
  EXCEPT
  SELECT t.repository_id, t.digest FROM here JOIN tags t ON t.repository_id = here.id
  JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
  WHERE $7 AND {live})
SELECT m.repository_id, m.digest, {pushed} AS pushed_ns, m.pulled_ns, here.name AS repository
FROM here JOIN manifests m ON m.repository_id = here.id
WHERE m.present
  AND NOT EXISTS (SELECT FROM parts p WHERE p.repository_id = m.repository_id AND p.digest = m.digest)
  AND ($2::text IS NULL OR here.app = $2)
  AND ($3::text IS NULL
       OR position(lower($3) IN lower(here.name)) > 0 OR position(lower($3) IN lower(here.app)) > 0
       OR starts_with(encode(m.digest, 'hex'), lower($3))
       OR (m.repository_id, m.digest) IN (
            SELECT t.repository_id, t.digest FROM here JOIN tags t ON t.repository_id = here.id
            JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
            WHERE position(lower($3) IN lower(t.name)) > 0 AND {live}))
  AND ($4::bool IS NULL OR $4 = ((m.repository_id, m.digest) IN (
            SELECT t.repository_id, t.digest FROM here JOIN tags t ON t.repository_id = here.id
            JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
            WHERE {live})))
ORDER BY {order}
OFFSET $5 LIMIT $6
"""
_STATEMENTS: Final = {
    name: _KEYS.format(pushed=PUSHED, live=LIVE_TAG_CONDITION, order=order)
    for name, order in _ORDERS.items()
}

NEWEST_EVENTS = """
SELECT id, event_id, type, workspace, data, occurred_at, published_at
FROM outbox WHERE workspace_id = $1 AND ($2::int8 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""

ITEM_STATES = """
SELECT run_id, state, count(*) AS items FROM cleanup_items
WHERE run_id = ANY($1::uuid[]) GROUP BY run_id, state
"""

# The row's version grows with every change of it, also one that leaves all its figures as they were:
# two readings are alike only when nothing happened between them.
PULSE = """
SELECT w.usage_bytes, w.quota_bytes, w.level, w.enforcement, w.changed_at,
       w.xmin::text::int8 AS row_version,
       (SELECT least(coalesce(sum(v.bytes), 0), 4611686018427387904) FROM reservations v
         WHERE v.workspace_id = w.id AND v.expires_at > $2)::int8 AS reserved_bytes,
       coalesce((SELECT max(o.id) FROM outbox o WHERE o.workspace_id = w.id), 0) AS last_event,
       (SELECT max(c.started_at) FROM cleanup_runs c WHERE c.workspace_id = w.id) AS last_run_at,
       (SELECT max(l.reported_at) FROM leases l WHERE l.workspace_id = w.id) AS leased_at,
       (SELECT count(*) FROM leases l WHERE l.workspace_id = w.id AND l.expires_at > $2) AS leases,
       (SELECT max(g.finished_at) FROM gc_verifications g) AS collection_seen_at
FROM workspaces w WHERE w.id = $1
"""

RUNNING = """
SELECT c.id, c.cause, c.started_at, c.promised_bytes, count(i.position) AS items,
       count(i.position) FILTER (WHERE i.state NOT IN ('planned', 'deleting')) AS done,
       coalesce(sum(i.freed_bytes), 0)::int8 AS freed_bytes
FROM cleanup_runs c LEFT JOIN cleanup_items i ON i.run_id = c.id
WHERE c.workspace_id = $1 AND c.state = 'running' GROUP BY c.id
"""

CONTENTS = f"""
SELECT m.repository_id, r.app, m.digest, m.blobs, m.children, m.subject,
       (m.repository_id, m.digest) IN (
            SELECT t.repository_id, t.digest FROM repositories r
            JOIN tags t ON t.repository_id = r.id
            JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
            WHERE r.workspace_id = $1 AND {LIVE_TAG_CONDITION}) AS tagged
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.workspace_id = $1 AND m.present
"""  # noqa: S608 - a constant

_PREFETCH = 500


class Fullness(msgspec.Struct, frozen=True):
    """A workspace in the list. Bytes."""

    id: int
    name: str
    quota_bytes: int
    usage_bytes: int
    level: str
    enforcement: str
    reserved_bytes: int
    cleaning: bool


class Totals(msgspec.Struct, frozen=True):
    """All workspaces that somebody may see, together."""

    workspaces: int
    usage_bytes: int
    warning: int
    critical: int
    exceeded: int


class Progress(msgspec.Struct, frozen=True):
    """A cleanup that runs. Bytes."""

    id: UUID
    cause: str
    started_at: datetime
    promised_bytes: int
    items: int
    done: int
    freed_bytes: int


class Pulse(msgspec.Struct, frozen=True):
    """What tells whether anything happened in a workspace."""

    usage_bytes: int
    quota_bytes: int
    level: str
    enforcement: str
    changed_at: datetime
    row_version: int
    reserved_bytes: int
    last_event: int
    last_run_at: datetime | None
    leased_at: datetime | None
    """The newest report of what is in use."""
    leases: int
    """Sources whose report still counts."""
    collection_seen_at: datetime | None
    """When the registry was last asked what a garbage collection freed."""
    running: Progress | None


async def by_fullness(
    connection: Connection,
    *,
    now: datetime,
    among: Sequence[str] | None,
    search: str | None,
    offset: int,
    limit: int,
) -> list[Fullness]:
    """Workspaces, the fullest first; with `among` these alone."""
    rows = await connection.fetch(BY_FULLNESS, now, among, search, offset, limit)
    return [Fullness(*row.values()) for row in rows]


async def totals(connection: Connection, *, among: Sequence[str] | None) -> Totals:
    """How many there are, how much they store, and how many are near their quota or above."""
    row = await connection.fetchrow(TOTALS, among)
    return Totals(*row.values())


async def keys(
    connection: Connection,
    workspace_id: int,
    *,
    app: str | None,
    search: str | None,
    tagged: bool | None,
    order: str,
    offset: int,
    limit: int | None,
) -> list[ManifestKey]:
    """Images that fit, in one of `ORDERS`; with `limit` None all of them.

    What an index holds is not among them, but where somebody searches for something.
    """
    rows = await connection.fetch(
        _STATEMENTS[order], workspace_id, app, search, tagged, offset, limit, search is None
    )
    return [(row["repository_id"], row["digest"]) for row in rows]


async def newest_events(
    connection: Connection, workspace_id: int, *, before: int | None, limit: int
) -> list[asyncpg.Record]:
    """Quota events of a workspace, newest first, those before one of them."""
    rows: list[asyncpg.Record] = await connection.fetch(NEWEST_EVENTS, workspace_id, before, limit)
    return rows


async def item_states(
    connection: Connection, run_ids: Sequence[UUID]
) -> dict[UUID, dict[str, int]]:
    """Of each run: how many of its items are in which state."""
    found: dict[UUID, dict[str, int]] = {}
    for row in await connection.fetch(ITEM_STATES, run_ids):
        found.setdefault(row["run_id"], {})[row["state"]] = row["items"]
    return found


async def pulse(connection: Connection, workspace_id: int, *, now: datetime) -> Pulse | None:
    """How a workspace stands, cheap enough to be asked twice a second; None: it is gone."""
    row = await connection.fetchrow(PULSE, workspace_id, now)
    if row is None:
        return None
    running = await connection.fetchrow(RUNNING, workspace_id)
    return Pulse(**row, running=None if running is None else Progress(**running))


class Contents(msgspec.Struct, frozen=True, gc=False):
    """What a manifest that exists holds, still packed."""

    repository_id: int
    app: str
    digest: bytes
    blobs: bytes | None
    children: bytes | None
    subject: bytes | None
    tagged: bool


async def contents(connection: Connection, workspace_id: int) -> AsyncIterator[Contents]:
    """Every manifest of a workspace, streamed. Call it within a transaction."""
    async for row in connection.cursor(CONTENTS, workspace_id, prefetch=_PREFETCH):
        yield Contents(*row.values())
