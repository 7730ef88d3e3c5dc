"""What reconciliation reads and keeps: passes, their drift, absences that one look suspected.

A pass can be taken up again where it stopped: repositories are done in order of name, and a pass's
row says up to which. Never commits.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from ledger import outbox, store
from ledger.ahead import AHEAD_NS
from ledger.contents import may_be_manifests
from ledger.facts import Content, names_only
from ledger.outbox import NewId, QuotaEvent
from ledger.packing import unpack_blobs, unpack_digests
from ledger.reading import LIVE_TAG_CONDITION, PUSHED
from ledger.record import Recorded
from registry.names import parse_digest
from runtime.postgres import Connection

# -- who may run ---------------------------------------------------------------------------------

# One pass at a time, whoever asks: two would only ask the registry everything twice.
TRY_LEAD = "SELECT pg_try_advisory_lock(5921, 2)"
IS_LED = """
SELECT EXISTS (
  SELECT FROM pg_locks
  WHERE locktype = 'advisory' AND classid = 5921 AND objid = 2 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
STOP_LEADING = "SELECT pg_advisory_unlock(5921, 2)"


async def try_lead(connection: Connection) -> bool:
    """Become the one that reconciles while this connection lives; False when another is it."""
    return bool(await connection.fetchval(TRY_LEAD))


async def running(connection: Connection) -> bool:
    """Whether somebody reconciles now. A pass that crashed holds no lock."""
    return bool(await connection.fetchval(IS_LED))


async def stop_leading(connection: Connection) -> None:
    """Let others reconcile."""
    await connection.execute(STOP_LEADING)


# -- what the ledger has -------------------------------------------------------------------------


class KnownManifest(msgspec.Struct, frozen=True, gc=False):
    """A manifest that exists for the ledger. Nanoseconds, UTC."""

    known_ns: int
    """Newest push of it or look at it."""
    pushed_ns: int
    """Newest push, else when it says it was built; -1: not known."""
    media_type: str
    size: int
    """Bytes of the document."""
    children: frozenset[bytes]
    """What it names that may be manifests, without what storage has as blobs."""


class KnownTag(msgspec.Struct, frozen=True, gc=False):
    """A live tag, and when it was set (nanoseconds, UTC)."""

    digest: bytes
    set_ns: int


class Floor(msgspec.Struct, frozen=True):
    """What is found in a repository now was not there at this moment. Nanoseconds, UTC.

    The end of the last pass over it, in a workspace that may be cleaned: what was found at the first
    installation tells its age itself.
    """

    ns: int | None = None
    unread: dict[str, int | None] = {}
    """A tag, or a digest as text, that the pass could not read → the moment that holds for it instead."""

    def of(self, reference: str) -> int | None:
        """The moment for one tag or digest; None: nobody had looked before."""
        return self.unread.get(reference, self.ns)

    def no_older(self, reference: str, moment_ns: int | None) -> int | None:
        """A moment that something says of itself, or the floor where that is later."""
        floor = self.of(reference)
        if floor is None or moment_ns is None:
            return moment_ns if floor is None else floor
        return max(floor, moment_ns)


class KnownRepository(msgspec.Struct, frozen=True):
    """All that the ledger has of one repository."""

    manifests: dict[bytes, KnownManifest]
    tags: dict[str, KnownTag]
    suspected: dict[str, datetime]
    """Reference (a tag, or a digest as text) → since when it is missing (UTC)."""
    floor: Floor = Floor()
    ahead: frozenset[bytes | str] = frozenset()
    """Digests, there or not, and tags, live or not, with a stamp ahead of `read_ns`."""
    read_ns: int = 0
    """When all this was read, nanoseconds by Postgres's clock."""
    names: frozenset[bytes] = frozenset()
    """What its images only name, no manifest and no child of one, of which storage has not spoken."""


# The ledger's repositories with something in them, and which workspace they count for.
HEARD_A_PUSH = """
SELECT EXISTS (SELECT FROM manifests m JOIN repositories r ON r.id = m.repository_id
               WHERE r.registry = $1 AND m.push_ns >= 0)
"""

REPOSITORIES = """
SELECT r.name, w.name AS workspace,
       EXISTS (SELECT FROM manifests m WHERE m.repository_id = r.id AND m.present) AS holds
FROM repositories r JOIN workspaces w ON w.id = r.workspace_id
WHERE r.registry = $1
"""

# Blobs are read where something may only be named, which a size of eight zero bytes tells: of an
# ordinary image they are not.
MANIFESTS = f"""
SELECT m.digest, greatest(m.push_ns, m.seen_ns) AS known_ns, {PUSHED} AS pushed_ns, m.media_type,
       m.size, m.children,
       CASE WHEN m.children IS NOT NULL OR position('\\x0000000000000000'::bytea IN m.blobs) > 0
            THEN m.blobs END AS named
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.registry = $1 AND r.name = $2 AND m.present
"""  # noqa: S608 - a constant

TAGS = f"""
SELECT t.name, t.digest, t.set_ns
FROM repositories r
JOIN tags t ON t.repository_id = r.id
JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
WHERE r.registry = $1 AND r.name = $2 AND {LIVE_TAG_CONDITION}
"""  # noqa: S608 - a constant

NOW = "SELECT (extract(epoch FROM now()) * 1000000000)::int8"

# What is told of them waits for that time, or for an answer of the registry.
AHEAD = """
SELECT m.digest AS name, NULL AS tag FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.registry = $1 AND r.name = $2
  AND greatest(m.push_ns, m.seen_ns, m.delete_ns, m.pulled_ns) > $3
UNION ALL
SELECT NULL, t.name FROM repositories r JOIN tags t ON t.repository_id = r.id
WHERE r.registry = $1 AND r.name = $2 AND greatest(t.set_ns, t.untag_ns) > $3
"""

SUSPECTED = """
SELECT s.reference, s.missing_since
FROM repositories r JOIN suspected_absences s ON s.repository_id = r.id
WHERE r.registry = $1 AND r.name = $2
"""


# A repository that no pass has met was not there when the last one ended that would have met it.
# Passes of earlier releases did not say whether they saw the whole list.
FLOOR = """
WITH place AS (
  SELECT coalesce((SELECT w.name FROM repositories r JOIN workspaces w ON w.id = r.workspace_id
                   WHERE r.registry = $1 AND r.name = $2), $3) AS workspace)
SELECT w.repository IS NOT NULL AS walked, w.unread,
       (extract(epoch FROM greatest(w.walked_at, p.finished_at)) * 1000000000)::int8 AS walked_ns,
       (SELECT (extract(epoch FROM max(finished_at)) * 1000000000)::int8 FROM reconcile_passes, place
        WHERE registry = $1 AND state = 'finished' AND coalesce(listed, message IS NULL)
          AND (reconcile_passes.workspace IS NULL OR reconcile_passes.workspace = place.workspace)
       ) AS passed_ns
FROM place JOIN workspaces here ON here.name = place.workspace
LEFT JOIN repository_walks w ON w.registry = $1 AND w.repository = $2
LEFT JOIN reconcile_passes p ON p.id = w.pass_id AND w.walked_at IS NOT NULL
WHERE here.configured OR NOT here.found_by_reconciliation
"""

KEEP_WALK = """
INSERT INTO repository_walks (registry, repository, pass_id, walked_at, unread)
VALUES ($1, $2, $3, $4, $5::text::jsonb)
ON CONFLICT (registry, repository) DO UPDATE
SET pass_id = excluded.pass_id, walked_at = excluded.walked_at, unread = excluded.unread
"""

# It was there, and nobody could look: what is in it may be as old as it says.
NOT_WALKED = """
INSERT INTO repository_walks (registry, repository, pass_id, walked_at, unread)
VALUES ($1, $2, $3, 'epoch'::timestamptz + ($4::int8 / 1000) * interval '1 microsecond', '{}')
ON CONFLICT DO NOTHING
"""

_unread = msgspec.json.Decoder(dict[str, int | None]).decode


async def floor(connection: Connection, registry: str, repository: str, *, usual: str) -> Floor:
    """What a look may take for granted. `usual`: the workspace of a repository that nobody knows."""
    row = await connection.fetchrow(FLOOR, registry, repository, usual)
    if row is None:
        return Floor()
    if not row["walked"]:
        return Floor(row["passed_ns"])
    return Floor(row["walked_ns"], _unread(row["unread"]))


async def keep_walk(
    connection: Connection,
    registry: str,
    repository: str,
    pass_id: int,
    *,
    now: datetime,
    unread: Mapping[str, int | None],
) -> None:
    """Remember that a pass went through a repository, but for what could not be read."""
    told = msgspec.json.encode(unread).decode()
    await connection.execute(KEEP_WALK, registry, repository, pass_id, now, told)


async def not_walked(
    connection: Connection, registry: str, repository: str, pass_id: int, floor_ns: int | None
) -> None:
    """Remember that a pass met a repository that could not be looked at; what was known of it stays."""
    await connection.execute(NOT_WALKED, registry, repository, pass_id, floor_ns)


async def heard_a_push(connection: Connection, registry: str) -> bool:
    """Whether a notification of the registry ever told of a push: a pull-through cache tells of pulls."""
    return bool(await connection.fetchval(HEARD_A_PUSH, registry))


async def repositories(connection: Connection, registry: str) -> dict[str, tuple[str, bool]]:
    """Repository → (workspace, whether the ledger has a manifest there)."""
    rows = await connection.fetch(REPOSITORIES, registry)
    return {row["name"]: (row["workspace"], row["holds"]) for row in rows}


async def known(
    connection: Connection, registry: str, repository: str, *, usual: str
) -> KnownRepository:
    """What the ledger has of a repository (nothing of an unknown one), at one moment.

    `usual`: the workspace of a repository that nobody knows.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        manifests = await connection.fetch(MANIFESTS, registry, repository)
        tags = await connection.fetch(TAGS, registry, repository)
        suspected = await connection.fetch(SUSPECTED, registry, repository)
        there = {row["digest"] for row in manifests}
        children = {row["digest"]: _may_be_manifests(row) for row in manifests if row["children"]}
        unknown = set().union(*children.values()) - there
        names = _names(manifests) - unknown - there
        blobs = frozenset(await store.load_stored(connection, unknown | names))
        not_before = await floor(connection, registry, repository, usual=usual)
        read_ns = await connection.fetchval(NOW)
        ahead = await connection.fetch(AHEAD, registry, repository, read_ns + AHEAD_NS)
    nothing = frozenset[bytes]()
    return KnownRepository(
        {
            row["digest"]: KnownManifest(
                row["known_ns"],
                row["pushed_ns"],
                row["media_type"],
                row["size"],
                children.get(row["digest"], nothing) - blobs,
            )
            for row in manifests
        },
        {row["name"]: KnownTag(row["digest"], row["set_ns"]) for row in tags},
        {row["reference"]: row["missing_since"] for row in suspected},
        not_before,
        frozenset(row["tag"] if row["name"] is None else row["name"] for row in ahead),
        read_ns,
        frozenset(names - blobs),
    )


def _names(manifests: Sequence[asyncpg.Record]) -> set[bytes]:
    return {
        digest
        for row in manifests
        if row["named"]
        for digest, size in unpack_blobs(row["named"])
        if names_only(digest, size)
    }


def _may_be_manifests(row: asyncpg.Record) -> frozenset[bytes]:
    blobs, children = unpack_blobs(row["named"] or b""), unpack_digests(row["children"])
    return may_be_manifests(Content(blobs=blobs, children=children))


# -- suspicions ----------------------------------------------------------------------------------

SUSPECT = """
INSERT INTO suspected_absences (repository_id, reference, missing_since)
SELECT r.id, given.reference, given.missing_since
FROM unnest($3::text[], $4::timestamptz[]) AS given(reference, missing_since)
JOIN repositories r ON r.registry = $1 AND r.name = $2
ORDER BY given.reference
ON CONFLICT (repository_id, reference) DO UPDATE SET missing_since = excluded.missing_since
"""

CLEAR = """
DELETE FROM suspected_absences s USING repositories r
WHERE s.repository_id = r.id AND r.registry = $1 AND r.name = $2 AND s.reference = ANY($3::text[])
"""


async def save_suspicions(
    connection: Connection,
    registry: str,
    repository: str,
    *,
    begun: Mapping[str, datetime],
    cleared: Sequence[str],
) -> None:
    """Remember what a look did not find, and forget what is settled."""
    if begun:
        await connection.execute(SUSPECT, registry, repository, list(begun), list(begun.values()))
    if cleared:
        await connection.execute(CLEAR, registry, repository, list(cleared))


# -- passes --------------------------------------------------------------------------------------


class Pass(msgspec.Struct):
    """A walk through the registry, finished or not. UTC times."""

    id: int
    workspace: str | None
    confirm_now: bool
    state: str
    cursor: str
    repositories: int
    manifests: int
    message: str | None
    started_at: datetime
    changed_at: datetime
    finished_at: datetime | None
    after_break: int = 0
    """The newest break of the log that it began after."""


_COLUMNS = """id, workspace, confirm_now, state, cursor, repositories, manifests, message, started_at,
       changed_at, finished_at, after_break"""

ADD_PASS = f"""
INSERT INTO reconcile_passes (registry, workspace, confirm_now, state, started_at, changed_at,
                              after_break)
SELECT $1, $2, $3, 'running', $4, $4, coalesce(max(id), 0) FROM log_breaks RETURNING {_COLUMNS}
"""  # noqa: S608 - a constant

# The newest of its kind, unless it came to its end.
RESUME_PASS = f"""
UPDATE reconcile_passes SET state = 'running', changed_at = $4, message = NULL
WHERE id = (SELECT id FROM reconcile_passes
            WHERE registry = $1 AND workspace IS NOT DISTINCT FROM $2 AND confirm_now = $3
            ORDER BY id DESC LIMIT 1)
  AND state <> 'finished' AND changed_at > $5
RETURNING {_COLUMNS}
"""  # noqa: S608 - a constant

ADVANCE = """
UPDATE reconcile_passes SET cursor = $2, repositories = $3, manifests = $4, changed_at = $5
WHERE id = $1
"""

END = """
UPDATE reconcile_passes
SET state = $2, message = $3, changed_at = $4::timestamptz,
    finished_at = CASE WHEN $2 = 'finished' THEN $4::timestamptz END, listed = $5
WHERE id = $1
"""

NEWEST = f"""
SELECT {_COLUMNS} FROM reconcile_passes
WHERE registry = $1 AND workspace IS NULL AND ($2::text IS NULL OR state = $2)
ORDER BY id DESC LIMIT 1
"""  # noqa: S608 - a constant


async def begin_pass(
    connection: Connection,
    registry: str,
    workspace: str | None,
    *,
    confirm_now: bool,
    now: datetime,
    resume_since: datetime,
) -> Pass:
    """Take up the last pass of this kind where it stopped, if after `resume_since`; else a new one."""
    row = await connection.fetchrow(
        RESUME_PASS, registry, workspace, confirm_now, now, resume_since
    ) or await connection.fetchrow(ADD_PASS, registry, workspace, confirm_now, now)
    return Pass(*row.values())


async def advance_pass(connection: Connection, current: Pass, now: datetime) -> None:
    """Remember how far a pass came."""
    await connection.execute(
        ADVANCE, current.id, current.cursor, current.repositories, current.manifests, now
    )


async def end_pass(
    connection: Connection,
    pass_id: int,
    *,
    state: str,
    message: str | None,
    now: datetime,
    listed: bool,
) -> None:
    """A pass is `finished`, or `stopped` before that. `listed`: whether it saw all repositories' names."""
    await connection.execute(END, pass_id, state, message, now, listed)


async def last_pass(
    connection: Connection, registry: str, *, state: str | None = None
) -> Pass | None:
    """The newest pass through the whole registry."""
    row = await connection.fetchrow(NEWEST, registry, state)
    return None if row is None else Pass(*row.values())


# -- drift ---------------------------------------------------------------------------------------


class Drift(msgspec.Struct, frozen=True):
    """What a pass found wrong in one workspace."""

    workspace_id: int
    workspace: str
    found: int
    """Manifests that the ledger had missed."""
    corrected: int
    """Tags that named something else than the ledger said, or were gone."""
    forgotten: int
    """Manifests that were gone."""
    drift_bytes: int
    """What mending it changed of the usage."""
    usage_before: int
    usage_after: int
    first_seen: bool
    """Whether the workspace was not known before reconciliation."""


ADD_DRIFT = """
INSERT INTO reconcile_drift AS d (pass_id, workspace_id, found, corrected, forgotten, drift_bytes,
                                  usage_before, usage_after)
SELECT $1, r.workspace_id, $4, $5, $6, $8::int8 - $7::int8, $7, $8
FROM repositories r WHERE r.registry = $2 AND r.name = $3
ON CONFLICT (pass_id, workspace_id) DO UPDATE
SET found = d.found + excluded.found, corrected = d.corrected + excluded.corrected,
    forgotten = d.forgotten + excluded.forgotten, drift_bytes = d.drift_bytes + excluded.drift_bytes,
    usage_after = excluded.usage_after
"""

WORKSPACE_OF = "SELECT workspace_id FROM repositories WHERE registry = $1 AND name = $2"

DRIFT = """
SELECT d.workspace_id, w.name, d.found, d.corrected, d.forgotten, d.drift_bytes, d.usage_before,
       d.usage_after, w.found_by_reconciliation AND d.usage_before = 0 AS first_seen
FROM reconcile_drift d JOIN workspaces w ON w.id = d.workspace_id
WHERE d.pass_id = $1 ORDER BY w.name
"""

COUNT_SUSPECTED = "SELECT count(*) FROM suspected_absences"

SUSPECTED_NAMES = """
SELECT r.name, s.reference, s.missing_since
FROM suspected_absences s JOIN repositories r ON r.id = s.repository_id
JOIN workspaces w ON w.id = r.workspace_id
WHERE r.registry = $1 AND ($2::text IS NULL OR w.name = $2)
ORDER BY r.name, s.reference
"""


async def add_drift(
    connection: Connection,
    pass_id: int,
    registry: str,
    repository: str,
    recorded: Recorded,
    *,
    found: int,
    corrected: int,
    forgotten: int,
) -> None:
    """Add up what a transaction mended, within that transaction."""
    workspace_id = await connection.fetchval(WORKSPACE_OF, registry, repository)
    before, after = recorded.usage.get(workspace_id, (0, 0))
    await connection.execute(
        ADD_DRIFT, pass_id, registry, repository, found, corrected, forgotten, before, after
    )


async def drift(connection: Connection, pass_id: int) -> list[Drift]:
    """What a pass found wrong, by workspace; those where all was well are left out."""
    return [Drift(*row.values()) for row in await connection.fetch(DRIFT, pass_id)]


LOCK_WORKSPACES = "SELECT id FROM workspaces WHERE id = ANY($1::int[]) ORDER BY id FOR UPDATE"


async def announce_drift(
    connection: Connection, current: Pass, drifts: Sequence[Drift], *, now: datetime, new_id: NewId
) -> None:
    """`drift.detected.v1` for each workspace. Within the transaction that ends the pass."""
    await connection.fetch(LOCK_WORKSPACES, [item.workspace_id for item in drifts])
    events = [
        QuotaEvent(
            item.workspace_id,
            item.workspace,
            outbox.DRIFT_DETECTED,
            {
                "cause": "reconcile",
                "pass": current.id,
                "found": item.found,
                "corrected": item.corrected,
                "forgotten": item.forgotten,
                "drift_bytes": item.drift_bytes,
                "usage_bytes_before": item.usage_before,
                "usage_bytes_after": item.usage_after,
                "first_seen": item.first_seen,
            },
        )
        for item in drifts
    ]
    await outbox.add_events(connection, events, now=now, new_id=new_id)


# Of manifests, in all of the registry.
MASS = """
SELECT (SELECT count(*) FROM suspected_absences s JOIN repositories r ON r.id = s.repository_id
        WHERE r.registry = $1 AND position(':' IN s.reference) > 0) AS absent,
       (SELECT count(*) FROM manifests m JOIN repositories r ON r.id = m.repository_id
        WHERE r.registry = $1 AND m.present) AS present
"""

ANY_SUSPECTED = """
SELECT EXISTS (
  SELECT FROM suspected_absences s JOIN repositories r ON r.id = s.repository_id
  JOIN workspaces w ON w.id = r.workspace_id
  WHERE r.registry = $1 AND position(':' IN s.reference) > 0 AND ($2::text IS NULL OR w.name = $2))
"""

SAMPLE = """
SELECT r.name AS repository, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id
WHERE r.registry = $1 AND m.present ORDER BY random() LIMIT $2
"""


SUSPECTED_SAMPLE = """
SELECT r.name AS repository, s.reference FROM suspected_absences s
JOIN repositories r ON r.id = s.repository_id
WHERE r.registry = $1 AND position(':' IN s.reference) > 0 ORDER BY random() LIMIT $2
"""


async def absences(connection: Connection, registry: str) -> tuple[int, int]:
    """(manifests that are suspected to be absent, manifests that the ledger has), of the whole registry."""
    row = await connection.fetchrow(MASS, registry)
    return row["absent"], row["present"]


async def any_absent(connection: Connection, registry: str, workspace: str | None) -> bool:
    """Whether a manifest is suspected to be absent, in a workspace or in all of them."""
    return bool(await connection.fetchval(ANY_SUSPECTED, registry, workspace))


async def sample(connection: Connection, registry: str, size: int) -> list[tuple[str, bytes]]:
    """(repository, digest) of some manifests that the ledger has, by chance."""
    rows = await connection.fetch(SAMPLE, registry, size)
    return [(row["repository"], row["digest"]) for row in rows]


async def suspected_sample(
    connection: Connection, registry: str, size: int
) -> list[tuple[str, bytes]]:
    """(repository, digest) of some manifests that are suspected to be absent, by chance."""
    rows = await connection.fetch(SUSPECTED_SAMPLE, registry, size)
    return [(row["repository"], parse_digest(row["reference"])) for row in rows]


async def count_suspected(connection: Connection) -> int:
    """Absences that wait for a second pass."""
    return int(await connection.fetchval(COUNT_SUSPECTED))


async def suspected(
    connection: Connection, registry: str, workspace: str | None
) -> list[tuple[str, str, datetime]]:
    """Absences that wait for a second pass: repository, reference, and since when it is missing."""
    rows = await connection.fetch(SUSPECTED_NAMES, registry, workspace)
    return [(row["name"], row["reference"], row["missing_since"]) for row in rows]


async def status(connection: Connection, registry: str) -> dict[str, Any]:
    """The newest pass, and the drift of the newest one that came to its end. UTC times."""
    last = await last_pass(connection, registry)
    finished = await last_pass(connection, registry, state="finished")
    drifts = [] if finished is None else await drift(connection, finished.id)
    return {
        "running": await running(connection),
        "last_started_at": None if last is None else last.started_at,
        "last_finished_at": None if finished is None else finished.finished_at,
        "last_error": None if last is None else last.message,
        "repositories": None if last is None else last.repositories,
        "manifests": None if last is None else last.manifests,
        "suspected_absences": await count_suspected(connection),
        "drift": [
            {
                "workspace": item.workspace,
                "found": item.found,
                "corrected": item.corrected,
                "forgotten": item.forgotten,
                "drift_bytes": item.drift_bytes,
            }
            for item in drifts
        ],
    }
