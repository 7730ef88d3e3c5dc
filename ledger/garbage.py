"""What awaits the registry's garbage collection, and what one really collected.

A digest awaits it when its last reference in any workspace went, under the workspace that let go
last. `released_at` is that moment; it is taken away when the digest is held again (by the recording
path) or was verified to be gone (here).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from ledger.packing import unpack_blobs
from runtime.postgres import Connection

ONE_RUNNING = "gc_verifications_one_running_idx"
_PREFETCH = 500

# Freed here, held nowhere, and nobody let go of it later: counted once, under its last holder.
_AWAITING = """
FROM workspace_digests h
WHERE h.refs = 0 AND h.released_at IS NOT NULL
  AND NOT EXISTS (
    SELECT FROM workspace_digests other
    WHERE other.digest = h.digest AND other.workspace_id <> h.workspace_id
      AND (other.refs > 0 OR (other.released_at, other.workspace_id) > (h.released_at, h.workspace_id)))
"""

AWAITING_BYTES = f"SELECT coalesce(sum(h.size), 0)::int8 {_AWAITING} AND h.workspace_id = $1"

AWAITING = f"""
SELECT h.workspace_id, h.digest, h.size, h.released_at {_AWAITING}
  AND ($1::int IS NULL OR h.workspace_id = $1)
"""

WORKSPACES = """
SELECT id, name FROM workspaces WHERE $1::text IS NULL OR name = $1 ORDER BY id
"""

# Manifests that are gone tell where their blobs can be asked for: the registry serves a blob only
# in a repository that it was pushed or mounted to.
DELETED_MANIFESTS = """
SELECT r.name, r.workspace_id, m.digest, m.blobs
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.registry = $1 AND r.workspace_id = ANY($2::int[]) AND NOT m.present
"""

# In order of the key, as the recording path writes them. What was let go of again meanwhile, or is
# held again, keeps its moment.
COLLECTED = """
WITH gone AS (
  SELECT digest, workspace_id FROM workspace_digests
  WHERE digest = ANY($1::bytea[]) AND refs = 0 AND released_at <= $2
  ORDER BY digest, workspace_id FOR UPDATE
)
UPDATE workspace_digests h SET released_at = NULL
FROM gone WHERE (h.digest, h.workspace_id) = (gone.digest, gone.workspace_id)
"""


class Awaiting(msgspec.Struct, frozen=True, gc=False):
    """A digest that nobody holds any more."""

    workspace_id: int
    digest: bytes
    size: int
    """Bytes."""
    released_at: datetime


class Places(msgspec.Struct):
    """Where awaited digests can be asked for."""

    blobs: dict[bytes, str]
    """Digest → a repository that had it."""
    documents: set[bytes]
    """Digests of deleted manifests: no registry tells of their documents."""


async def awaiting_bytes(connection: Connection, workspace_id: int) -> int:
    """Bytes that the registry's garbage collection would free, as far as this workspace let them go."""
    return int(await connection.fetchval(AWAITING_BYTES, workspace_id))


async def workspaces(connection: Connection, name: str | None) -> dict[int, str]:
    """Id → name of every workspace, or of the named one."""
    return {row["id"]: row["name"] for row in await connection.fetch(WORKSPACES, name)}


async def awaiting(connection: Connection, workspace_id: int | None) -> list[Awaiting]:
    """What awaits collection, in one workspace or all."""
    return [Awaiting(*row.values()) for row in await connection.fetch(AWAITING, workspace_id)]


async def places(connection: Connection, registry: str, awaited: Sequence[Awaiting]) -> Places:
    """Where to ask for what is awaited; call it within a transaction."""
    wanted = {item.digest for item in awaited}
    found = Places({}, set())
    holders = sorted({item.workspace_id for item in awaited})
    async for row in connection.cursor(DELETED_MANIFESTS, registry, holders, prefetch=_PREFETCH):
        if row["digest"] in wanted:
            found.documents.add(row["digest"])
        for digest, _size in unpack_blobs(row["blobs"] or b""):
            if digest in wanted:
                found.blobs[digest] = row["name"]
    return found


async def collected(connection: Connection, digests: Iterable[bytes], *, until: datetime) -> None:
    """These digests are gone from storage; those let go of after `until` still await that."""
    await connection.execute(COLLECTED, sorted(digests), until)


# -- verifications -----------------------------------------------------------------------------


class AlreadyVerifyingError(Exception):
    """A verification is running; wait for its end."""


class Counts(msgspec.Struct):
    """How much of what was predicted is what by now. Bytes, and digests."""

    predicted_bytes: int = 0
    predicted: int = 0
    collected_bytes: int = 0
    collected: int = 0
    present_bytes: int = 0
    present: int = 0
    unknown_bytes: int = 0
    """Not asked, or not answered, or no way to ask."""
    unknown: int = 0


_ABANDONED_AFTER = timedelta(seconds=60)

ABANDON = """
UPDATE gc_verifications
SET state = 'stopped', finished_at = $1::timestamptz, message = 'its process ended before it did'
WHERE state = 'running' AND changed_at < $1::timestamptz - $2::interval
"""

BEGIN = """
INSERT INTO gc_verifications (id, workspace, state, counts, workspaces, started_at, changed_at)
VALUES ($1, $2, 'running', $3::jsonb, '{}', $4, $4)
"""

PROGRESS = "UPDATE gc_verifications SET counts = $2::jsonb, changed_at = $3 WHERE id = $1"

FINISH = """
UPDATE gc_verifications
SET state = $2, message = $3, counts = $4::jsonb, workspaces = $5::jsonb, changed_at = $6,
    finished_at = $6
WHERE id = $1
"""

VERIFICATIONS = """
SELECT id, workspace, state, message, counts, workspaces, started_at, finished_at
FROM gc_verifications
WHERE $2::uuid IS NULL
  OR (started_at, id) < (SELECT b.started_at, b.id FROM gc_verifications b WHERE b.id = $2)
ORDER BY started_at DESC, id DESC LIMIT $1
"""

VERIFICATION = """
SELECT id, workspace, state, message, counts, workspaces, started_at, finished_at
FROM gc_verifications WHERE id = $1
"""


async def begin(
    connection: Connection, verification: UUID, workspace: str | None, *, now: datetime
) -> None:
    """Record that one begins, within a transaction. Raises AlreadyVerifyingError."""
    await connection.execute(ABANDON, now, _ABANDONED_AFTER)
    try:
        await connection.execute(BEGIN, verification, workspace, _json(Counts()), now)
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == ONE_RUNNING:
            raise AlreadyVerifyingError from error
        raise


async def progress(
    connection: Connection, verification: UUID, counts: Counts, *, now: datetime
) -> None:
    """Say how far it is."""
    await connection.execute(PROGRESS, verification, _json(counts), now)


async def finish(
    connection: Connection,
    verification: UUID,
    counts: Counts,
    by_workspace: Mapping[str, Counts],
    *,
    message: str | None,
    now: datetime,
) -> None:
    """Close it: finished, or stopped for a reason."""
    state = "finished" if message is None else "stopped"
    await connection.execute(
        FINISH, verification, state, message, _json(counts), _json(by_workspace), now
    )


async def verifications(
    connection: Connection, limit: int, *, before: UUID | None = None
) -> list[dict[str, Any]]:
    """The newest first; those that began before one of them."""
    rows = await connection.fetch(VERIFICATIONS, limit, before)
    return [_verification(row) for row in rows]


async def verification(connection: Connection, identifier: UUID) -> dict[str, Any] | None:
    """One of them."""
    row = await connection.fetchrow(VERIFICATION, identifier)
    return None if row is None else _verification(row)


def _verification(row: asyncpg.Record) -> dict[str, Any]:
    document = dict(row)
    counts = msgspec.json.decode(document.pop("counts"))
    by_workspace = msgspec.json.decode(document.pop("workspaces"))
    items = [{"workspace": name, **by_workspace[name]} for name in sorted(by_workspace)]
    return {**document, "id": str(row["id"]), **counts, "workspaces": items}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
