"""Counts a workspace again from its manifests alone and compares with its account.

Independent of the counters: rows are streamed (memory grows with the digests of one workspace), and
everything is read in one snapshot, so the outcome is exact while others write. What a count found is
kept, so that drift is a metric and a part of the status; it mends nothing.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from itertools import islice

import asyncpg
import msgspec

from ledger import outbox, store
from ledger.facts import names_only
from ledger.outbox import NewId, QuotaEvent
from ledger.packing import unpack_blobs
from runtime.postgres import Connection

_PREFETCH = 500
_CHUNK = 10_000

WORKSPACES = "SELECT id, name FROM workspaces WHERE $1::text IS NULL OR name = $1 ORDER BY name"

COUNT_WORKSPACES = "SELECT count(*) FROM workspaces"

USAGE = "SELECT usage_bytes FROM workspaces WHERE id = $1"

MANIFESTS = """
SELECT m.digest, m.size, m.blobs, m.blobs IS NULL OR m.claimed_ns >= 0 AS pending, m.subject_known
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.workspace_id = $1 AND m.present
"""

STORED = """
SELECT digest, size, word IS NOT DISTINCT FROM 2 AS asked
FROM stored_blobs WHERE digest = ANY($1::bytea[]) AND size >= 0
"""

HOLDINGS = (
    "SELECT digest, refs, names, size FROM workspace_digests WHERE workspace_id = $1 AND refs <> 0"
)


class DigestDrift(msgspec.Struct, frozen=True):
    """A digest whose entry is not what the manifests say. Bytes; None: no such entry."""

    digest: bytes
    refs: int
    expected_refs: int
    size: int | None
    expected_size: int | None


class Verified(msgspec.Struct, frozen=True):
    """One workspace, counted twice."""

    workspace_id: int
    workspace: str
    usage_bytes: int
    """By the counter."""
    recounted_bytes: int
    """From the manifests."""
    digests: int
    """How many distinct ones the manifests reach."""
    pending: int = 0
    """Manifests whose layers are not read yet: they count what is known of them."""
    wrong: tuple[DigestDrift, ...] = ()
    doubted: tuple[bytes, ...] = ()
    """Digests of which manifests say another size than an event told of storage: it is asked again."""

    @property
    def drift_bytes(self) -> int:
        """Counter minus recount; 0 is the only good value."""
        return self.usage_bytes - self.recounted_bytes

    @property
    def exact(self) -> bool:
        """Whether nothing differs at all."""
        return self.drift_bytes == 0 and not self.wrong


LOCK_WORKSPACES = "SELECT id FROM workspaces WHERE id = ANY($1::int[]) ORDER BY id FOR UPDATE"

KEEP = """
INSERT INTO recounts (workspace_id, drift_bytes, wrong_digests, counted_at)
SELECT given.*, $4::timestamptz FROM unnest($1::int[], $2::int8[], $3::int[]) AS given
ON CONFLICT (workspace_id) DO UPDATE
SET drift_bytes = excluded.drift_bytes, wrong_digests = excluded.wrong_digests,
    counted_at = excluded.counted_at
"""

KEPT = """
SELECT w.name AS workspace, c.drift_bytes, c.wrong_digests, c.counted_at
FROM recounts c JOIN workspaces w ON w.id = c.workspace_id ORDER BY w.name
"""


class Kept(msgspec.Struct, frozen=True):
    """What the newest counts of all workspaces found."""

    drift_bytes: int
    """All differences of counters and recounts, up or down; 0 is the only good value."""
    wrong_digests: int
    counted_at: datetime | None
    """The newest count (UTC); None: none was made."""
    workspaces: tuple[str, ...]
    """Those that differ."""


async def count(connection: Connection) -> int:
    """How many workspaces a count of all of them goes through."""
    return int(await connection.fetchval(COUNT_WORKSPACES))


async def names(connection: Connection) -> list[str]:
    """Their names."""
    return [row["name"] for row in await connection.fetch(WORKSPACES, None)]


async def keep(
    connection: Connection, outcomes: Sequence[Verified], *, now: datetime, new_id: NewId
) -> None:
    """Remember counts for metric and status; `drift.detected.v1` where one differs. In a transaction.

    Storage is asked about the sizes that are doubted.
    """
    ordered = sorted(outcomes, key=lambda item: item.workspace_id)
    wrong = [item for item in ordered if not item.exact]
    await connection.fetch(LOCK_WORKSPACES, [item.workspace_id for item in wrong])
    await connection.execute(
        KEEP,
        [item.workspace_id for item in ordered],
        [item.drift_bytes for item in ordered],
        [len(item.wrong) for item in ordered],
        now,
    )
    events = [
        QuotaEvent(
            item.workspace_id,
            item.workspace,
            outbox.DRIFT_DETECTED,
            {
                "cause": "recount",
                "drift_bytes": item.drift_bytes,
                "usage_bytes": item.usage_bytes,
                "recounted_bytes": item.recounted_bytes,
                "digests": len(item.wrong),
            },
        )
        for item in wrong
    ]
    await outbox.add_events(connection, events, now=now, new_id=new_id)
    doubted = {digest for item in ordered for digest in item.doubted}
    await store.add_size_check(connection, [(0, digest) for digest in sorted(doubted)], now)


async def kept(connection: Connection) -> Kept:
    """What the newest counts found, whoever made them."""
    rows = await connection.fetch(KEPT)
    wrong = [row for row in rows if row["drift_bytes"] or row["wrong_digests"]]
    return Kept(
        sum(abs(row["drift_bytes"]) for row in rows),
        sum(row["wrong_digests"] for row in rows),
        max((row["counted_at"] for row in rows), default=None),
        tuple(row["workspace"] for row in wrong),
    )


class _Counted(msgspec.Struct):
    refs: int = 0
    named: int = 0
    """Of them by manifests that only name it."""
    document: tuple[bool, int] | None = None
    """Whether it was read, and its bytes."""
    declared: int = 0
    stored: int | None = None
    asked: bool = False
    """Whether that is what storage answered, and not only told."""

    @property
    def size(self) -> int:
        if self.stored is not None:
            return self.stored
        return self.declared if self.document is None else self.document[1]

    @property
    def doubted(self) -> bool:
        if self.stored is None or self.asked or not self.counts:
            return False
        said = {self.declared, self.document[1] if self.document is not None else 0} - {0}
        return said not in ({self.stored}, set())

    @property
    def names(self) -> int:
        return self.named if self.stored is None else 0

    @property
    def counts(self) -> bool:
        """Whether anything holds it: what is only named takes no bytes."""
        return self.refs > self.names


async def verify(connection: Connection, workspace: str | None = None) -> AsyncIterator[Verified]:
    """Every workspace (or the named one) by name, each in a snapshot of its own."""
    for row in await connection.fetch(WORKSPACES, workspace):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            outcome = await _verify(connection, row["id"], row["name"])
        yield outcome


async def _verify(connection: Connection, workspace_id: int, name: str) -> Verified:
    usage = await connection.fetchval(USAGE, workspace_id)
    counted, pending = await _count(connection, workspace_id)
    reached = [item.size for item in counted.values() if item.counts]
    recounted, digests = sum(reached), len(reached)
    doubted = tuple(sorted(digest for digest, item in counted.items() if item.doubted))
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
    return Verified(workspace_id, name, usage, recounted, digests, pending, tuple(wrong), doubted)


def _compare(row: asyncpg.Record, expected: _Counted | None) -> DigestDrift | None:
    if expected is None:
        return DigestDrift(row["digest"], row["refs"], 0, row["size"], None)
    refs, size = expected.refs, expected.size if expected.counts else row["size"]
    if (row["refs"], row["names"], row["size"]) == (refs, expected.names, size):
        return None
    return DigestDrift(row["digest"], row["refs"], refs, row["size"], size)


async def _count(connection: Connection, workspace_id: int) -> tuple[dict[bytes, _Counted], int]:
    """What the manifests reach, and how many of them are not read yet."""
    pending = 0
    counted: dict[bytes, _Counted] = {}

    def entry(digest: bytes) -> _Counted:
        found = counted.get(digest)
        if found is None:
            found = counted[digest] = _Counted()
        return found

    async for row in connection.cursor(MANIFESTS, workspace_id, prefetch=_PREFETCH):
        pending += row["pending"]
        declared = dict(unpack_blobs(row["blobs"] or b""))
        for digest in declared.keys() | {row["digest"]}:
            entry(digest).refs += 1
        for digest, size in declared.items():
            found = entry(digest)
            found.declared = max(found.declared, size)
            # A manifest that names itself holds itself.
            found.named += names_only(digest, size) and digest != row["digest"]
        held = entry(row["digest"])
        document = (row["subject_known"], row["size"])
        held.document = document if held.document is None else max(held.document, document)
    for chunk in _chunks(list(counted)):
        for row in await connection.fetch(STORED, chunk):
            held = counted[row["digest"]]
            held.stored, held.asked = row["size"], row["asked"]
    return counted, pending


def _chunks(digests: Sequence[bytes]) -> Iterator[list[bytes]]:
    rest = iter(digests)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
