"""Counts a workspace again from its manifests alone and compares with its account. Reads only.

Independent of the counters: rows are streamed (memory grows with the digests of one workspace), and
everything is read in one snapshot, so the outcome is exact while others write.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice

import asyncpg
import msgspec

from ledger.packing import unpack_blobs
from runtime.postgres import Connection

_PREFETCH = 500
_CHUNK = 10_000

WORKSPACES = "SELECT id, name FROM workspaces WHERE $1::text IS NULL OR name = $1 ORDER BY name"

USAGE = "SELECT usage_bytes FROM workspaces WHERE id = $1"

MANIFESTS = """
SELECT m.digest, m.size, m.blobs
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.workspace_id = $1 AND m.present
"""

STORED = "SELECT digest, size FROM stored_blobs WHERE digest = ANY($1::bytea[]) AND size >= 0"

HOLDINGS = "SELECT digest, refs, size FROM workspace_digests WHERE workspace_id = $1 AND refs <> 0"


class DigestDrift(msgspec.Struct, frozen=True):
    """A digest whose entry is not what the manifests say. Bytes; None: no such entry."""

    digest: bytes
    refs: int
    expected_refs: int
    size: int | None
    expected_size: int | None


class Verified(msgspec.Struct, frozen=True):
    """One workspace, counted twice."""

    workspace: str
    usage_bytes: int
    """By the counter."""
    recounted_bytes: int
    """From the manifests."""
    digests: int
    """How many distinct ones the manifests reach."""
    wrong: tuple[DigestDrift, ...] = ()

    @property
    def drift_bytes(self) -> int:
        """Counter minus recount; 0 is the only good value."""
        return self.usage_bytes - self.recounted_bytes

    @property
    def exact(self) -> bool:
        """Whether nothing differs at all."""
        return self.drift_bytes == 0 and not self.wrong


class _Counted(msgspec.Struct):
    refs: int = 0
    document: int | None = None
    declared: int = 0
    stored: int | None = None

    @property
    def size(self) -> int:
        if self.stored is not None:
            return self.stored
        return self.declared if self.document is None else self.document


async def verify(connection: Connection, workspace: str | None = None) -> AsyncIterator[Verified]:
    """Every workspace (or the named one) by name, each in a snapshot of its own."""
    for row in await connection.fetch(WORKSPACES, workspace):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            outcome = await _verify(connection, row["id"], row["name"])
        yield outcome


async def _verify(connection: Connection, workspace_id: int, name: str) -> Verified:
    usage = await connection.fetchval(USAGE, workspace_id)
    counted = await _count(connection, workspace_id)
    recounted, digests = sum(item.size for item in counted.values()), len(counted)
    wrong: list[DigestDrift] = []
    async for row in connection.cursor(HOLDINGS, workspace_id, prefetch=_PREFETCH):
        expected = counted.pop(row["digest"], None)
        drift = _compare(row, expected)
        if drift is not None:
            wrong.append(drift)
    wrong += [
        DigestDrift(digest, 0, item.refs, None, item.size) for digest, item in counted.items()
    ]
    wrong.sort(key=lambda item: item.digest)
    return Verified(name, usage, recounted, digests, tuple(wrong))


def _compare(row: asyncpg.Record, expected: _Counted | None) -> DigestDrift | None:
    refs, size = (0, None) if expected is None else (expected.refs, expected.size)
    if (row["refs"], row["size"]) == (refs, size):
        return None
    return DigestDrift(row["digest"], row["refs"], refs, row["size"], size)


async def _count(connection: Connection, workspace_id: int) -> dict[bytes, _Counted]:
    counted: dict[bytes, _Counted] = {}

    def entry(digest: bytes) -> _Counted:
        found = counted.get(digest)
        if found is None:
            found = counted[digest] = _Counted()
        return found

    async for row in connection.cursor(MANIFESTS, workspace_id, prefetch=_PREFETCH):
        declared = dict(unpack_blobs(row["blobs"] or b""))
        for digest in declared.keys() | {row["digest"]}:
            entry(digest).refs += 1
        for digest, size in declared.items():
            entry(digest).declared = max(entry(digest).declared, size)
        entry(row["digest"]).document = row["size"]
    for chunk in _chunks(list(counted)):
        for row in await connection.fetch(STORED, chunk):
            counted[row["digest"]].stored = row["size"]
    return counted


def _chunks(digests: Sequence[bytes]) -> Iterator[list[bytes]]:
    rest = iter(digests)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
