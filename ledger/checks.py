"""What the registry is to be asked, now that it is due: tags that raced, deletes, sizes nobody confirmed.

Work is taken with a lease: whoever takes a row moves its `due_at`, so that another process leaves it
alone, and a crash only delays it. Never commits.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from ledger import store
from ledger.fold import Manifest
from ledger.packing import unpack_blobs
from ledger.reading import LIVE_TAG_CONDITION
from runtime.postgres import Connection

# -- tags ----------------------------------------------------------------------------------------


class TagCheck(msgspec.Struct, frozen=True):
    """A tag of which events cannot tell what it names."""

    repository_id: int
    repository: str
    tag: str
    digest: bytes | None
    """What it points at for the ledger."""
    newest_ns: int
    """The newest set or removal of it; nanoseconds, UTC."""
    deleted_ns: int
    """The newest delete of what it points at; -1: none."""
    live: bool
    """Whether it answers, for the ledger."""
    attempts: int
    lease: datetime
    """The row's `due_at` while we hold it: another race in between moves it."""
    asked_ns: int
    """When it was taken, nanoseconds by Postgres's clock."""


TAKE_TAG_CHECKS = f"""
UPDATE tag_checks c SET due_at = $3
FROM (
  SELECT t.repository_id, t.tag FROM tag_checks t
  JOIN repositories r ON r.id = t.repository_id
  WHERE t.due_at <= $2 AND r.registry = $1
  ORDER BY t.due_at LIMIT $4 FOR UPDATE OF t SKIP LOCKED
) AS due, repositories r, tags t LEFT JOIN manifests m USING (repository_id, digest)
WHERE c.repository_id = due.repository_id AND c.tag = due.tag
  AND r.id = c.repository_id AND t.repository_id = c.repository_id AND t.name = c.tag
RETURNING c.repository_id, r.name, c.tag, t.digest,
          greatest(t.set_ns, t.untag_ns), coalesce(m.delete_ns, -1),
          coalesce({LIVE_TAG_CONDITION}, false), c.attempts, c.due_at,
          (extract(epoch FROM now()) * 1000000000)::int8
"""  # noqa: S608 - a constant

FINISH_TAG_CHECK = "DELETE FROM tag_checks WHERE repository_id = $1 AND tag = $2 AND due_at = $3"

POSTPONE_TAG_CHECK = """
UPDATE tag_checks SET due_at = $4, attempts = $5
WHERE repository_id = $1 AND tag = $2 AND due_at = $3
"""


async def take_tag_checks(
    connection: Connection, registry: str, *, now: datetime, lease: timedelta, limit: int
) -> list[TagCheck]:
    """Checks that are due, ours until `now` + `lease`."""
    rows = await connection.fetch(TAKE_TAG_CHECKS, registry, now, now + lease, limit)
    return [TagCheck(*row.values()) for row in rows]


async def finish_tag_check(connection: Connection, check: TagCheck) -> None:
    """Done, unless the tag raced again meanwhile."""
    await connection.execute(FINISH_TAG_CHECK, check.repository_id, check.tag, check.lease)


async def postpone_tag_check(connection: Connection, check: TagCheck, due_at: datetime) -> None:
    """Ask again later."""
    await connection.execute(
        POSTPONE_TAG_CHECK,
        check.repository_id,
        check.tag,
        check.lease,
        due_at,
        min(check.attempts + 1, 1000),
    )


# -- manifests -----------------------------------------------------------------------------------


class ManifestCheck(msgspec.Struct, frozen=True):
    """A manifest that an event may have told the delete of."""

    repository_id: int
    repository: str
    digest: bytes
    known: Manifest
    attempts: int
    lease: datetime
    """The row's `due_at` while we hold it: what is heard in between moves it."""
    asked_ns: int
    """When it was taken, nanoseconds by Postgres's clock."""


TAKE_MANIFEST_CHECKS = """
UPDATE manifest_checks c SET due_at = $3
FROM (
  SELECT t.repository_id, t.digest FROM manifest_checks t
  JOIN repositories r ON r.id = t.repository_id
  WHERE t.due_at <= $2 AND r.registry = $1
  ORDER BY t.due_at LIMIT $4 FOR UPDATE OF t SKIP LOCKED
) AS due, repositories r
WHERE c.repository_id = due.repository_id AND c.digest = due.digest AND r.id = c.repository_id
RETURNING c.repository_id, r.name, c.digest, c.attempts, c.due_at,
          (extract(epoch FROM now()) * 1000000000)::int8 AS asked_ns
"""

FINISH_MANIFEST_CHECK = (
    "DELETE FROM manifest_checks WHERE repository_id = $1 AND digest = $2 AND due_at = $3"
)

POSTPONE_MANIFEST_CHECK = """
UPDATE manifest_checks SET due_at = $4, attempts = $5
WHERE repository_id = $1 AND digest = $2 AND due_at = $3
"""


async def take_manifest_checks(
    connection: Connection, registry: str, *, now: datetime, lease: timedelta, limit: int
) -> list[ManifestCheck]:
    """Checks that are due, ours until `now` + `lease`."""
    rows = await connection.fetch(TAKE_MANIFEST_CHECKS, registry, now, now + lease, limit)
    known = await store.load_manifests(
        connection, ((row["repository_id"], row["digest"]) for row in rows)
    )
    return [
        ManifestCheck(
            row["repository_id"],
            row["name"],
            row["digest"],
            known.get((row["repository_id"], row["digest"]), Manifest()),
            row["attempts"],
            row["due_at"],
            row["asked_ns"],
        )
        for row in rows
    ]


async def finish_manifest_check(connection: Connection, check: ManifestCheck) -> None:
    """Done, unless something was heard of it again meanwhile."""
    await connection.execute(FINISH_MANIFEST_CHECK, check.repository_id, check.digest, check.lease)


async def postpone_manifest_check(
    connection: Connection, check: ManifestCheck, due_at: datetime
) -> None:
    """Ask again later."""
    await connection.execute(
        POSTPONE_MANIFEST_CHECK,
        check.repository_id,
        check.digest,
        check.lease,
        due_at,
        min(check.attempts + 1, 1000),
    )


# -- sizes ---------------------------------------------------------------------------------------


class SizeCheck(msgspec.Struct, frozen=True):
    """Manifests of one batch with blobs of which storage had not spoken."""

    id: int
    manifests: tuple[tuple[bytes, int], ...]
    """(digest, repository id). Without a repository (0): whatever is held under that digest."""
    attempts: int


class UnconfirmedBlob(msgspec.Struct, frozen=True):
    """A blob whose size only manifests declare, or that they only name, and where to ask for it."""

    repository_id: int
    repositories: tuple[str, ...]
    manifest: bytes
    digest: bytes

    @property
    def doubted(self) -> bool:
        """Whether an event told its size, and others contradict."""
        return not self.repository_id


TAKE_SIZE_CHECK = """
UPDATE size_checks SET due_at = $2
WHERE id = (SELECT id FROM size_checks WHERE due_at <= $1
            ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, manifests, attempts
"""

FINISH_SIZE_CHECK = "DELETE FROM size_checks WHERE id = $1"

BLOBS_OF = """
SELECT m.repository_id, r.name, r.workspace_id, m.digest, m.blobs
FROM unnest($2::bytea[], $3::int[]) AS wanted(digest, repository_id)
JOIN manifests m USING (repository_id, digest)
JOIN repositories r ON r.id = m.repository_id
WHERE m.present AND m.blobs IS NOT NULL AND r.registry = $1
"""

# What is only named may be nothing at all, or have been a manifest once.
UNCONFIRMED = """
SELECT DISTINCT digest FROM workspace_digests
WHERE digest = ANY($1::bytea[]) AND refs > 0 AND (NOT stored OR refs = names)
"""


async def take_size_check(
    connection: Connection, *, now: datetime, lease: timedelta
) -> SizeCheck | None:
    """The check that is due for longest, ours until `now` + `lease`."""
    row = await connection.fetchrow(TAKE_SIZE_CHECK, now, now + lease)
    if row is None:
        return None
    return SizeCheck(row["id"], unpack_blobs(row["manifests"]), row["attempts"])


async def unconfirmed(
    connection: Connection, registry: str, manifests: Sequence[tuple[bytes, int]]
) -> tuple[list[UnconfirmedBlob], dict[bytes, int]]:
    """Blobs of these manifests to ask for, each once, and those whose size another holder knows."""
    rows = await connection.fetch(
        BLOBS_OF,
        registry,
        [digest for digest, _repository_id in manifests],
        [repository_id for _digest, repository_id in manifests],
    )
    blobs: dict[bytes, UnconfirmedBlob] = {}
    for row in rows:
        for digest, _size in unpack_blobs(row["blobs"]):
            blobs.setdefault(
                digest,
                UnconfirmedBlob(row["repository_id"], (row["name"],), row["digest"], digest),
            )
    open_ = {row["digest"] for row in await connection.fetch(UNCONFIRMED, sorted(blobs))}
    known = await store.load_stored(connection, open_)
    return [blobs[digest] for digest in sorted(open_ - known.keys())], known


# Wherever the ledger has a manifest that is it or holds it: a forged one may be the first.
WHERE_HELD = """
SELECT wanted.digest, place.name
FROM unnest($2::bytea[]) AS wanted(digest)
CROSS JOIN LATERAL (
  SELECT r.name FROM workspace_digests h
  JOIN repositories r ON r.workspace_id = h.workspace_id AND r.registry = $1
  WHERE h.digest = wanted.digest AND h.refs > 0 AND EXISTS (
    SELECT FROM manifests m WHERE m.repository_id = r.id AND m.present
      AND (m.digest = wanted.digest OR position(wanted.digest IN m.blobs) > 0))
  LIMIT 5) place
"""


async def where_held(
    connection: Connection, registry: str, digests: Iterable[bytes]
) -> dict[bytes, list[str]]:
    """Digest → some repositories of a registry to ask for it in. Those that nobody holds are absent."""
    found: dict[bytes, list[str]] = {}
    for row in await connection.fetch(WHERE_HELD, registry, sorted(set(digests))):
        found.setdefault(row["digest"], []).append(row["name"])
    return found


async def doubted(
    connection: Connection, registry: str, manifests: Sequence[tuple[bytes, int]]
) -> list[UnconfirmedBlob]:
    """What stands in a check without a repository, with where to ask for it."""
    digests = [digest for digest, repository_id in manifests if not repository_id]
    places = await where_held(connection, registry, digests) if digests else {}
    return [
        UnconfirmedBlob(0, tuple(names), digest, digest) for digest, names in sorted(places.items())
    ]


async def finish_size_check(
    connection: Connection,
    check: SizeCheck,
    again: Iterable[tuple[int, bytes]],
    *,
    due_at: datetime,
) -> None:
    """Done; the manifests in `again` (repository id, digest) are asked about once more at `due_at`."""
    await connection.execute(FINISH_SIZE_CHECK, check.id)
    await store.add_size_check(
        connection, sorted(set(again)), due_at, min(check.attempts + 1, 1000)
    )
