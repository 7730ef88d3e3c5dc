"""A second ledger in a schema of its own: rebuilt from what was learned, compared, put in place.

What people decided (quotas, policies, mappings, reservations, leases) and what happened (runs, events,
observations) is not rebuilt: the rebuilt ledger begins with the live one's workspaces, repositories and
sizes that storage said, and only what follows from facts is compared or replaced.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from ledger import history, outbox, tables
from ledger.ahead import told_ahead
from ledger.facts import Fact
from ledger.outbox import NewId
from ledger.record import LevelRule, Workspace, level_event
from runtime.postgres import Connection

SCHEMA = "replayed"

# One replay at a time.
TRY_LEAD = "SELECT pg_try_advisory_lock(5921, 7)"

_SEED = """
INSERT INTO replayed.workspaces (id, name, quota_bytes, enforcement, policy, configured,
                                 found_by_reconciliation)
OVERRIDING SYSTEM VALUE
SELECT id, name, quota_bytes, enforcement, policy, configured, found_by_reconciliation
FROM public.workspaces;

INSERT INTO replayed.repositories (id, registry, name, workspace_id, app, mapped, unsure_ns,
                                   created_at)
OVERRIDING SYSTEM VALUE
SELECT id, registry, name, workspace_id, app, mapped, unsure_ns, created_at
FROM public.repositories;

INSERT INTO replayed.repository_blobs SELECT repository_id, digest FROM public.repository_blobs;

INSERT INTO replayed.stored_blobs (digest, size, word, asked_ns)
SELECT digest, size, word, asked_ns FROM public.stored_blobs WHERE size >= 0;

SELECT setval(pg_get_serial_sequence('replayed.workspaces', 'id'),
              (SELECT coalesce(max(id), 0) + 1 FROM replayed.workspaces), false),
       setval(pg_get_serial_sequence('replayed.repositories', 'id'),
              (SELECT coalesce(max(id), 0) + 1 FROM replayed.repositories), false);
"""

ELSEWHERE = """
SELECT count(*) FROM public.consumer_offsets
WHERE topic = $2 AND cluster_id <> $1 AND next_offset > 0
"""

OBSERVATIONS = """
SELECT id, fact, (extract(epoch FROM recorded_at) * 1000000000)::int8 AS arrived_ns
FROM public.observations WHERE id > $1 ORDER BY id LIMIT $2
"""

COUNT_OBSERVATIONS = "SELECT count(*) FROM public.observations"

_decode_fact = msgspec.json.Decoder(Fact).decode


def schema_url(url: str) -> str:
    """A database URL whose connections see the rebuilt ledger instead of the live one."""
    parts = urlsplit(url)
    query = f"{parts.query}&search_path={SCHEMA}" if parts.query else f"search_path={SCHEMA}"
    return urlunsplit(parts._replace(query=query))


async def try_lead(connection: Connection) -> bool:
    """Become the one replay for as long as this connection lives; False when another is it."""
    return bool(await connection.fetchval(TRY_LEAD))


async def prepare(connection: Connection) -> None:
    """Create the second schema anew, with what is not rebuilt."""
    async with connection.transaction(isolation="repeatable_read"):
        await drop(connection)
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for name in tables.metadata.tables:
            await connection.execute(
                f"CREATE TABLE {SCHEMA}.{name} (LIKE public.{name} INCLUDING ALL)"
            )
        await connection.execute(_SEED)


async def drop(connection: Connection) -> None:
    """Forget the rebuilt ledger."""
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


async def fed_from_elsewhere(connection: Connection, cluster_id: str, topic: str) -> bool:
    """Whether the live ledger also holds what it read from another Kafka cluster."""
    return bool(await connection.fetchval(ELSEWHERE, cluster_id, topic))


class Observed(msgspec.Struct, frozen=True):
    """Some observations in the order of their ids."""

    last_id: int
    facts: list[Fact]


async def observations(
    connection: Connection, *, after: int, limit: int
) -> AsyncIterator[Observed]:
    """What was learned otherwise than from the topic, from the live ledger."""
    while rows := await connection.fetch(OBSERVATIONS, after, limit):
        after = rows[-1]["id"]
        yield Observed(
            after, [told_ahead(_decode_fact(row["fact"]), row["arrived_ns"]) for row in rows]
        )


async def count_observations(connection: Connection) -> int:
    """How many observations there are."""
    return int(await connection.fetchval(COUNT_OBSERVATIONS))


# -- comparing ---------------------------------------------------------------------------------

_COMPARED = {
    "manifest": """
SELECT r.registry, r.name, m.digest, w.name AS workspace,
       m.present, m.push_ns, m.push_id, m.seen_ns, m.seen_id, m.delete_ns, m.delete_id, m.created_ns, m.dated_ns,
       m.pulled_ns, m.size, m.media_type, m.subject, m.subject_known, m.blobs, m.children, m.claimed_ns,
       m.read_by
FROM {0}.manifests m JOIN {0}.repositories r ON r.id = m.repository_id
JOIN {0}.workspaces w ON w.id = r.workspace_id
ORDER BY r.registry COLLATE "C", r.name COLLATE "C", m.digest
""",
    "tag": """
SELECT r.registry, r.name, t.name AS tag, w.name AS workspace,
       t.digest, t.set_ns, t.set_id, t.untag_ns, t.untag_id,
       CASE WHEN NOT t.history_partial AND t.history_set_ns = t.set_ns THEN t.named_ns END AS named_ns,
       CASE WHEN NOT t.history_partial AND t.history_set_ns = t.set_ns
            THEN t.first_push_ns END AS first_push_ns
FROM {0}.tags t JOIN {0}.repositories r ON r.id = t.repository_id
JOIN {0}.workspaces w ON w.id = r.workspace_id
ORDER BY r.registry COLLATE "C", r.name COLLATE "C", t.name COLLATE "C"
""",
    "bytes": """
SELECT '' AS registry, '' AS repository, w.name AS workspace, w.name, w.usage_bytes
FROM {0}.workspaces w WHERE w.usage_bytes <> 0 ORDER BY w.name COLLATE "C"
""",
}
_KEY = 3
_PREFETCH = 500


class Difference(msgspec.Struct, frozen=True):
    """A row that the live and the rebuilt ledger do not agree on; None: it is not there."""

    kind: str
    """manifest, tag or bytes."""
    workspace: str
    registry: str
    repository: str
    name: bytes | str
    """A digest, a tag, or the workspace."""
    live: dict[str, Any] | None
    rebuilt: dict[str, Any] | None


async def differences(live: Connection, rebuilt: Connection) -> AsyncIterator[Difference]:
    """Everything that differs, streamed. Both connections are in a transaction of their own.

    `live` keeps the snapshot up to which the rebuilt ledger was built, so others may go on writing.
    """
    for kind, statement in _COMPARED.items():
        left = _rows(live, statement.format("public"))
        right = _rows(rebuilt, statement.format(SCHEMA))
        one, other = await anext(left, None), await anext(right, None)
        while one is not None or other is not None:
            if other is None or (one is not None and _key(one) < _key(other)):
                yield _difference(kind, one, None)
                one = await anext(left, None)
            elif one is None or _key(other) < _key(one):
                yield _difference(kind, None, other)
                other = await anext(right, None)
            else:
                if not (_agree(one, other) or _knows_less(one, other)):
                    yield _difference(kind, one, other)
                one, other = await anext(left, None), await anext(right, None)


async def _rows(connection: Connection, statement: str) -> AsyncIterator[dict[str, Any]]:
    async for row in connection.cursor(statement, prefetch=_PREFETCH):
        yield dict(row)


def _agree(live: dict[str, Any], rebuilt: dict[str, Any]) -> bool:
    """Whether two rows say the same. What earlier rules read is read again anyhow: bytes are compared."""
    if live == rebuilt:
        return True
    if live.get("read_by") == rebuilt.get("read_by"):
        return False
    beside = {"read_by"} if live["read_by"] is not None else {"read_by", "blobs", "children"}
    return all(live[name] == rebuilt[name] for name in live.keys() - beside)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.values())[:_KEY]


def _knows_less(live: dict[str, Any], rebuilt: dict[str, Any]) -> bool:
    """Whether the live ledger only lacks the history of a tag that an earlier release had written."""
    return live.get("named_ns", -1) is None and live == {
        name: None if name in ("named_ns", "first_push_ns") else value
        for name, value in rebuilt.items()
    }


def _difference(
    kind: str, live: dict[str, Any] | None, rebuilt: dict[str, Any] | None
) -> Difference:
    row = live or rebuilt or {}
    registry, repository, name = _key(row)
    said = [None if side is None else dict(list(side.items())[_KEY:]) for side in (live, rebuilt)]
    return Difference(kind, row.get("workspace", ""), registry, repository, name, *said)


# -- putting in place --------------------------------------------------------------------------

# Whoever changes the account locks a workspace's row first, so nobody holds a part of this already.
LOCK = """
LOCK TABLE public.workspaces, public.repositories, public.manifests, public.tags, public.tag_repeats,
           public.workspace_digests, public.repository_blobs, public.stored_blobs,
           public.observations,
           public.consumer_offsets IN EXCLUSIVE MODE
"""

MAPPED_MEANWHILE = """
SELECT count(*) FROM replayed.repositories r JOIN replayed.workspaces rw ON rw.id = r.workspace_id
JOIN public.repositories l ON (l.registry, l.name) = (r.registry, r.name)
JOIN public.workspaces lw ON lw.id = l.workspace_id
WHERE lw.name <> rw.name
"""

# Consumers that run are refused their next batch: they read their new position and go on there.
FENCE = """
INSERT INTO public.consumer_offsets (cluster_id, topic, partition, epoch, next_offset, owner)
SELECT $1, $2, partition, 1, next_offset, 'replay'
FROM unnest($3::int[], $4::int8[]) AS given(partition, next_offset)
ON CONFLICT (cluster_id, topic, partition) DO UPDATE
SET epoch = consumer_offsets.epoch + 1, next_offset = excluded.next_offset, owner = excluded.owner,
    changed_at = now(), head_offset = NULL, head_ms = NULL, head_digest = NULL,
    anchor_offset = NULL, anchor_ms = NULL, anchor_digest = NULL
"""

# Ids of rows that are there already stay: other tables and running processes hold on to them.
_PLACE = (
    """
INSERT INTO public.workspaces (name, quota_bytes, found_by_reconciliation)
SELECT name, quota_bytes, found_by_reconciliation FROM replayed.workspaces ORDER BY name
ON CONFLICT (name) DO NOTHING
""",
    """
INSERT INTO public.repositories (registry, name, workspace_id, app, unsure_ns)
SELECT r.registry, r.name, l.id, r.app, r.unsure_ns FROM replayed.repositories r
JOIN replayed.workspaces w ON w.id = r.workspace_id JOIN public.workspaces l ON l.name = w.name
ORDER BY r.registry, r.name ON CONFLICT (registry, name) DO NOTHING
""",
    """
CREATE TEMPORARY TABLE placed_repositories ON COMMIT DROP AS
SELECT r.id AS rebuilt_id, l.id FROM replayed.repositories r
JOIN public.repositories l ON (l.registry, l.name) = (r.registry, r.name)
""",
    """
CREATE TEMPORARY TABLE placed_workspaces ON COMMIT DROP AS
SELECT r.id AS rebuilt_id, l.id FROM replayed.workspaces r JOIN public.workspaces l USING (name)
""",
    "ANALYZE placed_repositories, placed_workspaces",
)

_KEPT = {"fetch_attempts", "fetch_after", "released_at"}
"""Columns that follow from something else than facts."""
_KEYS = {
    "manifests": ("placed_repositories", "repository_id", "digest"),
    "tags": ("placed_repositories", "repository_id", "name"),
    "workspace_digests": ("placed_workspaces", "workspace_id", "digest"),
}


def _replace(table: str) -> tuple[str, str]:
    """Statements that leave alone what is equal, so that little is written."""
    placed, owner, name = _KEYS[table]
    columns = [
        column
        for column in tables.metadata.tables[table].columns.keys()  # noqa: SIM118 - no dictionary
        if column not in _KEPT | {owner, name}
    ]
    given = ", ".join(f"r.{column}" for column in columns)
    released = ", released_at" if table == "workspace_digests" else ""
    keep_released = (
        ", released_at = CASE WHEN excluded.refs = 0 THEN"
        " coalesce(l.released_at, excluded.released_at) END"
        if released
        else ""
    )
    remove = f"""
DELETE FROM public.{table} l WHERE NOT EXISTS (
  SELECT FROM {placed} p JOIN replayed.{table} r ON r.{owner} = p.rebuilt_id
  WHERE p.id = l.{owner} AND r.{name} = l.{name})
"""  # noqa: S608 - constants of this module
    put = f"""
INSERT INTO public.{table} AS l ({owner}, {name}, {", ".join(columns)}{released})
SELECT p.id, r.{name}, {given}{", r.released_at" if released else ""}
FROM replayed.{table} r JOIN {placed} p ON p.rebuilt_id = r.{owner}
ON CONFLICT ({owner}, {name}) DO UPDATE
SET {", ".join(f"{column} = excluded.{column}" for column in columns)}{keep_released}
WHERE ({", ".join(f"l.{column}" for column in columns)})
  IS DISTINCT FROM ({", ".join(f"excluded.{column}" for column in columns)})
"""  # noqa: S608 - constants of this module
    return remove, put


_PUT_REPEATS = """
DELETE FROM public.tag_repeats;
INSERT INTO public.tag_repeats (repository_id, name, set_ns, set_id, moment_ns, pushed)
SELECT p.id, s.name, s.set_ns, s.set_id, s.moment_ns, s.pushed
FROM replayed.tag_repeats s JOIN placed_repositories p ON p.rebuilt_id = s.repository_id
"""

_PUT_STORED = """
INSERT INTO public.stored_blobs AS l (digest, size, word, asked_ns)
SELECT digest, size, word, asked_ns FROM replayed.stored_blobs
ON CONFLICT (digest) DO UPDATE
SET size = excluded.size, word = excluded.word, asked_ns = excluded.asked_ns
WHERE (coalesce(l.word, 1), coalesce(l.asked_ns, -1), l.size)
    < (coalesce(excluded.word, 1), coalesce(excluded.asked_ns, -1), excluded.size)
"""

_PUT_BLOBS = """
INSERT INTO public.repository_blobs (repository_id, digest)
SELECT p.id, b.digest FROM replayed.repository_blobs b
JOIN placed_repositories p ON p.rebuilt_id = b.repository_id
ON CONFLICT DO NOTHING
"""

# As `Manifest.asked_for`.
_ASKED_FOR = """
m.heard_ns IS NOT NULL
  AND (m.heard_ns, coalesce(m.heard_id, '')) > (m.push_ns, coalesce(m.push_id, ''))
  AND (m.heard_ns, coalesce(m.heard_id, '')) > (m.seen_ns, coalesce(m.seen_id, ''))
  AND ((coalesce(m.sure_ns, -1), coalesce(m.sure_id, '')) < (m.push_ns, coalesce(m.push_id, ''))
    OR (coalesce(m.sure_ns, -1), coalesce(m.sure_id, '')) < (m.seen_ns, coalesce(m.seen_id, '')))
"""

# A replay asks nobody: whoever settles asks afterwards.
_PUT_CHECKS = f"""
INSERT INTO public.manifest_checks (repository_id, digest, due_at)
SELECT p.id, m.digest, $1 FROM replayed.manifests m
JOIN placed_repositories p ON p.rebuilt_id = m.repository_id
WHERE {_ASKED_FOR} ON CONFLICT DO NOTHING
"""  # noqa: S608 - a constant

# Present although an event told a delete of its digest: it may have been a blob's.
UNSETTLED = f"""
SELECT r.registry, r.name, m.digest
FROM replayed.manifests m JOIN replayed.repositories r ON r.id = m.repository_id
WHERE m.present AND {_ASKED_FOR}
ORDER BY r.registry, r.name, m.digest
"""  # noqa: S608 - a constant


async def unsettled(connection: Connection) -> list[tuple[str, str, bytes]]:
    """(registry, repository, digest) of what the rebuilt ledger counts until the registry was asked."""
    return [tuple(row.values()) for row in await connection.fetch(UNSETTLED)]


CHANGED_USAGE = """
SELECT l.id, l.name, l.quota_bytes, coalesce(r.usage_bytes, 0) AS usage_bytes, l.level,
       l.first_image_at IS NOT NULL OR coalesce(r.usage_bytes, 0) > 0 AS has_images
FROM public.workspaces l LEFT JOIN replayed.workspaces r USING (name)
-- One that is empty again, and was removed, had images once: it stays away.
WHERE l.usage_bytes <> coalesce(r.usage_bytes, 0)
   OR (l.first_image_at IS NULL AND r.usage_bytes > 0)
ORDER BY l.id
"""

PUT_USAGE = """
UPDATE public.workspaces
SET usage_bytes = $2, level = $3, changed_at = $4::timestamptz,
    first_image_at = CASE WHEN $5 THEN coalesce(first_image_at, $4::timestamptz) END
WHERE id = $1
"""


# Present in one and not in the other.
_ONLY_IN = """
SELECT count(*) FROM {0}.manifests m JOIN {0}.repositories r ON r.id = m.repository_id
WHERE m.present AND NOT EXISTS (
  SELECT FROM {1}.manifests o JOIN {1}.repositories p ON p.id = o.repository_id
  WHERE (p.registry, p.name, o.digest) = (r.registry, r.name, m.digest) AND o.present)
"""

_SUMS = """
SELECT (SELECT count(*) FROM public.manifests WHERE present) AS images,
       (SELECT coalesce(sum(usage_bytes), 0)::int8 FROM public.workspaces) AS bytes_before,
       (SELECT coalesce(sum(usage_bytes), 0)::int8 FROM replayed.workspaces) AS bytes_after
"""


class Change(msgspec.Struct, frozen=True):
    """What putting the rebuilt ledger in place changes."""

    images: int
    """Manifests that the live one has."""
    lost: int
    """Of these, what the rebuilt one has not."""
    gained: int
    """What only the rebuilt one has."""
    bytes_before: int
    """All workspaces' usage."""
    bytes_after: int


async def change(connection: Connection) -> Change:
    """What a swap would change now."""
    sums = await connection.fetchrow(_SUMS)
    lost = await connection.fetchval(_ONLY_IN.format("public", SCHEMA))
    gained = await connection.fetchval(_ONLY_IN.format(SCHEMA, "public"))
    return Change(sums["images"], lost, gained, sums["bytes_before"], sums["bytes_after"])


class LosesImagesError(Exception):
    """The rebuilt ledger lacks images of the live one, and nobody agreed to so many."""

    def __init__(self, change: Change) -> None:
        super().__init__(change)
        self.change = change


class BehindError(Exception):
    """Something was learned since the replay read the observations: catch up and try again."""


class MappedMeanwhileError(Exception):
    """A repository was mapped to another workspace while the ledger was rebuilt; start again."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


async def put_in_place(
    connection: Connection,
    *,
    cluster_id: str,
    topic: str,
    ends: Mapping[int, int],
    observations_taken: int,
    losing: int,
    tell: Callable[[Change], None],
    level_of: LevelRule,
    now: datetime,
    new_id: NewId,
) -> int:
    """Make the live ledger what the rebuilt one is; returns how many workspaces' bytes changed.

    Call it within a transaction. What changes is told first; `losing`: so many images may be lost.
    Consumers are fenced and go on at `ends` (partition → offset); a changed level is announced.
    Raises BehindError, MappedMeanwhileError, LosesImagesError.
    """
    await connection.execute(LOCK)
    if await count_observations(connection) != observations_taken:
        raise BehindError
    if await connection.fetchval(MAPPED_MEANWHILE):
        raise MappedMeanwhileError
    changes = await change(connection)
    tell(changes)
    if changes.lost not in (0, losing):
        raise LosesImagesError(changes)
    ordered = sorted(ends.items())
    await connection.execute(
        FENCE, cluster_id, topic, [item[0] for item in ordered], [item[1] for item in ordered]
    )
    for statement in _PLACE:
        await connection.execute(statement)
    for table in _KEYS:
        for statement in _replace(table):
            await connection.execute(statement)
    await connection.execute(_PUT_REPEATS)
    await connection.execute(_PUT_STORED)
    await connection.execute(_PUT_BLOBS)
    await connection.execute(_PUT_CHECKS, now)
    events = []
    changed = [Workspace(*row.values()) for row in await connection.fetch(CHANGED_USAGE)]
    for workspace in changed:
        level = level_of(workspace.level, workspace.usage_bytes, workspace.quota_bytes)
        if level != workspace.level:
            events.append(level_event(workspace, level))
            workspace.level = level
        await connection.execute(
            PUT_USAGE, workspace.id, workspace.usage_bytes, level, now, workspace.has_images
        )
    await history.sample(connection, changed, now)
    await outbox.add_events(connection, events, now=now, new_id=new_id)
    return len(changed)
