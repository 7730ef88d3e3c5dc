"""Bytes set aside for builds: reserved under the workspace's lock, used up as their pushes come."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from ledger.settlement import Reserved
from runtime.postgres import Connection

MOST_OPEN = 2000
"""Builds of a workspace that may have bytes set aside at a time."""

Place = tuple[datetime, UUID]
"""Where one stands in a list: when it was made, and its id."""


class Reservation(msgspec.Struct, frozen=True):
    """Bytes set aside for a build until `expires_at` (UTC), or until it has pushed."""

    id: UUID
    build_id: str
    app: str | None
    bytes: int
    created_at: datetime
    expires_at: datetime


# Setting bytes aside is a change of the workspace: it makes a new version of its row. What was decided on
# an older version ($8) than is there then reserves nothing; the condition is looked at again when the
# row's lock is there (READ COMMITTED). Who holds the row mostly changes it and is not waited for: on the
# connection that waits, no other workspace is served. Without $8 the caller holds it.
# The same build replaces its own reservation, a settled one too: pushes before this moment are in
# the usage that it was decided on. What has expired goes on the way.
RESERVE = """
WITH unchanged AS (
  SELECT id FROM workspaces WHERE id = $2 AND ($8::int8 IS NULL OR xmin::text::int8 = $8)
  FOR NO KEY UPDATE SKIP LOCKED
), workspace AS (
  UPDATE workspaces w SET level = level FROM unchanged u WHERE w.id = u.id RETURNING w.id
), expired AS (
  DELETE FROM reservations v USING workspace w
  WHERE v.workspace_id = w.id AND v.expires_at <= $6 AND v.build_id <> $3
)
INSERT INTO reservations (id, workspace_id, build_id, app, bytes, created_at, expires_at)
SELECT $1, w.id, $3, $4, $5, $6, $7 FROM workspace w
ON CONFLICT (workspace_id, build_id) DO UPDATE
SET app = excluded.app, bytes = excluded.bytes, created_at = excluded.created_at,
    expires_at = excluded.expires_at, settled_by = NULL, settled_tag = NULL, settled_ns = NULL
RETURNING id, build_id, app, bytes, created_at, expires_at
"""

RESERVATIONS = """
SELECT id, build_id, app, bytes, created_at, expires_at FROM reservations
WHERE workspace_id = $1 AND expires_at > $2 AND settled_by IS NULL
  AND ($3::timestamptz IS NULL OR (created_at, id) > ($3, $4::uuid))
ORDER BY created_at, id LIMIT $5
"""

RELEASE = """
DELETE FROM reservations
WHERE workspace_id = $1 AND (id::text = $2 OR build_id = $2) AND settled_by IS NULL
RETURNING id
"""

RELEASE_BUILD = "DELETE FROM reservations WHERE workspace_id = $1 AND build_id = $2"

# Settled ones too: they know which pushes were their builds'.
OF_APPS = """
SELECT workspace_id, app, id, (extract(epoch FROM created_at) * 1000000000)::int8 AS created_ns,
       bytes, settled_by, settled_tag, coalesce(settled_ns, -1)
FROM reservations
WHERE workspace_id = ANY($1::int[]) AND expires_at > $2 AND app IS NOT NULL
ORDER BY created_at, id
"""

SAVE_SETTLED = """
UPDATE reservations v
SET bytes = given.bytes, settled_by = given.settled_by, settled_tag = given.settled_tag,
    settled_ns = given.settled_ns
FROM unnest($1::uuid[], $2::int8[], $3::bytea[], $4::text[], $5::int8[])
  AS given(id, bytes, settled_by, settled_tag, settled_ns)
WHERE v.id = given.id
"""


async def reserve(
    connection: Connection, workspace_id: int, reservation: Reservation
) -> Reservation:
    """Set bytes aside, under the workspace's lock; the build keeps the id it had."""
    reserved = await _reserve(connection, workspace_id, reservation, None)
    if reserved is None:
        raise LookupError(f"there is no workspace {workspace_id}")
    return reserved


async def reserve_unless_changed(
    connection: Connection, workspace_id: int, reservation: Reservation, version: int
) -> Reservation | None:
    """Set bytes aside if the workspace is as it was when this `version` of it was read, else None.

    None as well, at once, while somebody holds its row. One statement, so it needs no transaction around
    it and no lock before it.
    """
    return await _reserve(connection, workspace_id, reservation, version)


async def _reserve(
    connection: Connection, workspace_id: int, reservation: Reservation, version: int | None
) -> Reservation | None:
    row = await connection.fetchrow(
        RESERVE,
        reservation.id,
        workspace_id,
        reservation.build_id,
        reservation.app,
        reservation.bytes,
        reservation.created_at,
        reservation.expires_at,
        version,
    )
    return None if row is None else Reservation(*row.values())


async def reservations(
    connection: Connection,
    workspace_id: int,
    *,
    now: datetime,
    after: Place | None = None,
    limit: int = MOST_OPEN,
) -> list[Reservation]:
    """What is reserved now, oldest first; those behind a place in the list."""
    rows = await connection.fetch(RESERVATIONS, workspace_id, now, *(after or (None, None)), limit)
    return [Reservation(*row.values()) for row in rows]


async def release_build(connection: Connection, workspace_id: int, build_id: str) -> None:
    """Give back what a build has reserved: it was denied, or grew larger than the quota."""
    await connection.execute(RELEASE_BUILD, workspace_id, build_id)


async def release(connection: Connection, workspace_id: int, name: str) -> bool:
    """Give reserved bytes back, by the reservation's id or its build's; False when there are none."""
    return await connection.fetchval(RELEASE, workspace_id, name) is not None


async def of_apps(
    connection: Connection, workspace_ids: Iterable[int], *, now: datetime
) -> Mapping[tuple[int, str], list[Reserved]]:
    """(workspace id, app) → its reservations, oldest first. Those without an app are nobody's."""
    found: dict[tuple[int, str], list[Reserved]] = {}
    for row in await connection.fetch(OF_APPS, sorted(workspace_ids), now):
        workspace_id, app, *columns = row.values()
        found.setdefault((workspace_id, app), []).append(Reserved(*columns))
    return found


async def save_settled(connection: Connection, changed: Iterable[Reserved]) -> None:
    """Write reservations that pushes have used up, in part or all."""
    rows = sorted(
        (item.id, item.left_bytes, item.settled_by, item.settled_tag, item.settled_ns)
        for item in changed
    )
    if rows:
        await connection.execute(
            SAVE_SETTLED, *(list(column) for column in zip(*rows, strict=True))
        )
