"""What the ledger knows, for the API, the planner and people. Reads only; never locks."""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import asyncpg
import msgspec

from ledger.facts import Content, names_only
from ledger.naming import Age, Named, age_of
from ledger.packing import unpack_blobs, unpack_digests
from ledger.store import named_another
from registry.media_types import DOCKER_CONFIG, OCI_CONFIG
from runtime.postgres import Connection

# A tag answers: its manifest exists, and it was set after that manifest's delete and its own removal.
LIVE_TAG_CONDITION = """
  m.present
  AND (t.set_ns, coalesce(t.set_id, ''::bytea)) > (t.untag_ns, coalesce(t.untag_id, ''::bytea))
  AND (t.set_ns, coalesce(t.set_id, ''::bytea)) > (m.delete_ns, coalesce(m.delete_id, ''::bytea))
"""


# The newest push; of an image that was only found, a person's date or its own word.
PUSHED = """CASE WHEN m.push_ns >= 0 THEN m.push_ns
            WHEN m.dated_ns >= 0 THEN m.dated_ns ELSE m.created_ns END"""
# When a tag came to name its digest (`naming.py`). Of a row that an earlier release wrote: when it was
# set, unless that was a look, which is stamped in whole seconds.
NAMED = """CASE WHEN t.history_set_ns = t.set_ns THEN t.named_ns
           WHEN t.set_ns % 1000000000 <> 0 THEN t.set_ns ELSE -1 END AS named_ns,
       CASE WHEN t.history_set_ns = t.set_ns THEN t.first_push_ns ELSE -1 END AS first_push_ns,
       CASE WHEN t.history_set_ns = t.set_ns THEN coalesce(t.latest_ns, -1) ELSE -1 END AS latest_ns"""
MANIFEST_COLUMNS = f"""
m.repository_id, r.registry, r.name AS repository, r.app, m.digest, m.size, m.media_type,
m.present, {PUSHED} AS pushed_ns, greatest(m.push_ns, m.seen_ns) AS known_ns,
m.push_ns < 0 AS estimated, m.delete_ns, m.pulled_ns, m.left_ns, m.push_ns, m.created_ns, m.dated_ns,
m.config_media_type, m.artifact_type, m.subject, m.subject_known, m.blobs, m.children, m.claimed_ns,
m.read_by, m.first_ns
"""
_PREFETCH = 500
_DIGESTS_AT_A_TIME = 5000
_VIEW_COLUMNS = 14
"""How many of them a view takes as they are."""


class WorkspaceView(msgspec.Struct, frozen=True):
    """A workspace's row and what is reserved in it. Bytes and UTC times."""

    id: int
    name: str
    quota_bytes: int
    usage_bytes: int
    level: str
    enforcement: str
    policy: dict[str, Any]
    configured: bool
    found_by_reconciliation: bool
    changed_at: datetime
    reserved_bytes: int
    visible: bool
    """Whether it has had an image, or somebody configured it."""
    version: int
    """Of its row: another one once anything was recorded, set or reserved in it."""
    reservations: int
    """How many builds have bytes set aside that they have not pushed yet."""


_WORKSPACE = """
SELECT w.id, w.name, w.quota_bytes, w.usage_bytes, w.level, w.enforcement, w.policy, w.configured,
       w.found_by_reconciliation, w.changed_at, reserved.bytes AS reserved_bytes,
       w.first_image_at IS NOT NULL OR w.configured AS visible, w.xmin::text::int8 AS version,
       reserved.open AS reservations
FROM workspaces w CROSS JOIN LATERAL (
  SELECT least(coalesce(sum(v.bytes), 0), 4611686018427387904)::int8 AS bytes,
         count(*) FILTER (WHERE v.settled_by IS NULL) AS open
  FROM reservations v WHERE v.workspace_id = w.id AND v.expires_at > $1) reserved
"""

FIND_WORKSPACE = (
    _WORKSPACE.replace("v.expires_at > $1", "v.expires_at > $1 AND v.build_id IS DISTINCT FROM $3")
    + " WHERE w.name = $2"
)
LIST_WORKSPACES = (
    _WORKSPACE
    + """ WHERE (w.first_image_at IS NOT NULL OR w.configured) AND w.name > $2
AND ($4::text[] IS NULL OR w.name = ANY($4)) ORDER BY w.name LIMIT $3"""
)


def _workspace(row: asyncpg.Record) -> WorkspaceView:
    values = list(row.values())
    values[6] = msgspec.json.decode(values[6])
    return WorkspaceView(*values)


async def find_workspace(
    connection: Connection, name: str, *, now: datetime, except_build: str | None = None
) -> WorkspaceView | None:
    """A workspace by name, also one that is not visible yet; one build's reservation may be left out."""
    row = await connection.fetchrow(FIND_WORKSPACE, now, name, except_build)
    return None if row is None else _workspace(row)


async def list_workspaces(
    connection: Connection,
    *,
    now: datetime,
    after: str = "",
    limit: int = 1000,
    among: Sequence[str] | None = None,
) -> list[WorkspaceView]:
    """Visible workspaces by name, those behind `after`; with `among` these alone."""
    rows = await connection.fetch(LIST_WORKSPACES, now, after, limit, among)
    return [_workspace(row) for row in rows]


class ManifestView(msgspec.Struct, frozen=True, gc=False):
    """A manifest that exists (or an index that did), with its live tags. Times in nanoseconds, UTC."""

    repository_id: int
    registry: str
    repository: str
    app: str
    digest: bytes
    size: int
    media_type: str
    present: bool
    pushed_ns: int
    """Newest push; of an image that was only found, when it says it was built; -1: not known."""
    known_ns: int
    """Newest sign of it, a push or a look: a delete has to be newer."""
    estimated: bool
    """Whether no push of it is known."""
    delete_ns: int
    pulled_ns: int
    left_ns: int
    content: Content | None
    tags: tuple[str, ...]
    age: Age
    """What order, `min_age` and "newest" go by."""
    surely_ns: int
    """Since when at the latest it is what it is, whatever anybody told; -1: that is its age.

    That a tag named something else meanwhile is told by events alone: whoever forges two of them would
    have an old image come to be named anew. Beyond doubt is its earliest push, and when a tag was set
    that never named anything else.
    """


# Indexes that are gone stay in: the moment a child's last parent left is its delete.
MANIFESTS = f"""
SELECT {MANIFEST_COLUMNS}
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.workspace_id = $1 AND (m.present OR m.children IS NOT NULL)
"""  # noqa: S608 - a constant

LIVE_TAGS = f"""
SELECT t.repository_id, t.digest, t.name,
       CASE WHEN t.history_set_ns = t.set_ns AND NOT t.history_partial AND t.odd IS NULL AND t.untag_ns < 0
            THEN coalesce(t.history, ''::bytea) END AS all_sets, {NAMED}
FROM repositories r
JOIN tags t ON t.repository_id = r.id
JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
WHERE r.workspace_id = $1 AND {LIVE_TAG_CONDITION}
ORDER BY t.name
"""  # noqa: S608 - a constant


async def manifests_of(
    connection: Connection,
    workspace_id: int,
    *,
    unanswered: Container[tuple[int, str]] = frozenset(),
) -> list[ManifestView]:
    """Every manifest of a workspace. Call it in one REPEATABLE READ transaction with `sizes_of`.

    `unanswered`: (repository id, tag) of tags that the registry does not answer: no image is as new as
    they are.
    """
    tags: dict[tuple[int, bytes], list[NamedTag]] = {}
    fresh: dict[tuple[int, bytes], int] = {}
    # A stretch at a time: others of the process get their turn between two of them.
    async for row in connection.cursor(LIVE_TAGS, workspace_id, prefetch=_PREFETCH):
        name, named = named_tag(row)
        key = (row["repository_id"], row["digest"])
        if (row["repository_id"], name) in unanswered:
            named = Named()
        elif row["all_sets"] is not None and not named_another(row["all_sets"]):
            fresh[key] = max(named.moment_ns, fresh.get(key, -1))
        tags.setdefault(key, []).append((name, named))
    views = []
    async for row in connection.cursor(MANIFESTS, workspace_id, prefetch=_PREFETCH):
        key = (row["repository_id"], row["digest"])
        views.append(view_of_row(row, tags.get(key, ()), fresh.get(key, -1)))
    return views


NamedTag = tuple[str, Named]
"""A live tag, and when it came to name its manifest."""


def named_tag(row: asyncpg.Record) -> NamedTag:
    """A row with a tag's name and `NAMED`."""
    return row["name"], Named(row["named_ns"], row["first_push_ns"], row["latest_ns"])


def _first_ns(row: asyncpg.Record) -> int:
    """The earliest push that is known; -1: none."""
    first_ns: int | None = row["first_ns"]
    push_ns: int = row["push_ns"]
    return push_ns if first_ns is None else first_ns


def _surely_ns(row: asyncpg.Record, age: Age, fresh_ns: int) -> int:
    if age.source != "tag":
        # A push is no news of what a tag named already: it may have been there for ever.
        return 0 if age.source == "push" else -1
    # What was deleted meanwhile may not have been, either.
    fresh_ns = -1 if row["delete_ns"] >= 0 else fresh_ns
    created_ns: int = row["created_ns"]
    return max(_first_ns(row), fresh_ns, created_ns)


def view_of_row(row: asyncpg.Record, tags: Sequence[NamedTag], fresh_ns: int = -1) -> ManifestView:
    """A row of `MANIFEST_COLUMNS` with the live tags on it.

    `fresh_ns`: when a tag that never named anything else came to name it.
    """
    age = age_of(
        [named for _name, named in tags],
        push_ns=row["push_ns"],
        dated_ns=-1 if row["dated_ns"] is None else row["dated_ns"],
        built_ns=row["created_ns"],
    )
    names = tuple([name for name, _named in tags])
    columns: list[Any] = [*list(row.values())[:_VIEW_COLUMNS], content_of_row(row), names, age]
    columns.append(_surely_ns(row, age, fresh_ns) if names else _first_ns(row))
    return ManifestView(*columns)


def content_of_row(row: asyncpg.Record) -> Content | None:
    """What a manifest row refers to; None while that is pending."""
    if row["blobs"] is None:
        return None
    return Content(
        blobs=unpack_blobs(row["blobs"]),
        children=unpack_digests(row["children"] or b""),
        config_media_type=row["config_media_type"] or "",
        artifact_type=row["artifact_type"] or "",
        subject=row["subject"],
        subject_known=row["subject_known"],
        claimed_ns=row["claimed_ns"],
        rules=row["read_by"] or 0,
    )


class Held(msgspec.Struct, frozen=True, gc=False):
    """A digest in a workspace's account."""

    refs: int
    """Existing manifests that hold it: not those that only name it."""
    size: int
    """Bytes that count while anything holds it."""
    named: bool = False
    """Whether manifests only name it: storage has not spoken of it as a blob."""


def blobs_held(content: Content | None, held: Mapping[bytes, Held]) -> list[bytes]:
    """Digests that an existing manifest makes its workspace hold beside its own.

    `held` has what the workspace's account says of everything that it names.
    """
    if content is None:
        return []
    return [
        digest
        for digest, size in content.blobs
        if not names_only(digest, size) or ((entry := held.get(digest)) and not entry.named)
    ]


HELD = """
SELECT h.digest, h.refs - h.names AS refs, h.size, h.names > 0 AS named FROM workspace_digests h
WHERE h.workspace_id = $1 AND h.digest = ANY($2::bytea[])
"""


async def held(connection: Connection, workspace_id: int, digests: set[bytes]) -> dict[bytes, Held]:
    """The account's entries for some digests; digests that the workspace never had are absent."""
    found: dict[bytes, Held] = {}
    waiting = iter(digests)
    while some := sorted(islice(waiting, _DIGESTS_AT_A_TIME)):
        rows = await connection.fetch(HELD, workspace_id, some)
        found.update((row["digest"], Held(row["refs"], row["size"], row["named"])) for row in rows)
    return found


EVENTS = """
SELECT id, event_id, type, workspace, data, occurred_at, published_at
FROM outbox WHERE workspace_id = $1 AND id > $2 ORDER BY id LIMIT $3
"""


async def events_of(
    connection: Connection, workspace_id: int, *, after: int, limit: int
) -> list[asyncpg.Record]:
    """Quota events of a workspace, oldest first."""
    rows: list[asyncpg.Record] = await connection.fetch(EVENTS, workspace_id, after, limit)
    return rows


STATUS = """
SELECT
  (SELECT count(*) FROM outbox WHERE published_at IS NULL) AS outbox_waiting,
  (SELECT extract(epoch FROM $1 - min(occurred_at)) FROM outbox WHERE published_at IS NULL)
    AS outbox_age_seconds,
  (SELECT count(*) FROM manifests
     WHERE present AND (blobs IS NULL OR claimed_ns >= 0)) AS sizes_pending,
  (SELECT count(*) FROM workspaces WHERE first_image_at IS NOT NULL) AS workspaces
"""

POSITIONS = """
SELECT cluster_id, topic, partition, next_offset, owner, changed_at
FROM consumer_offsets ORDER BY cluster_id, topic, partition
"""


class PendingManifest(msgspec.Struct, frozen=True):
    """A manifest whose document has to be read."""

    repository_id: int
    repository: str
    digest: bytes
    attempts: int
    media_type: str
    """What its event called it."""
    size_known: bool = False
    """True: only what kind of artifact it is waits for its document."""


PENDING = """
SELECT m.repository_id, r.name AS repository, m.digest, coalesce(m.fetch_attempts, 0), m.media_type
FROM manifests m JOIN repositories r ON r.id = m.repository_id
WHERE m.present AND (m.blobs IS NULL OR m.claimed_ns >= 0) AND r.registry = $1
  AND (m.fetch_after IS NULL OR m.fetch_after <= $2)
ORDER BY m.fetch_after NULLS FIRST LIMIT $3
"""

# No notification carries `artifactType`: what has no image's config is told by its document alone.
UNREAD_ARTIFACT = (
    "present AND NOT subject_known AND claimed_ns < 0 AND blobs IS NOT NULL AND children IS NULL"
    " AND artifact_type IS NULL"
    f" AND config_media_type IS DISTINCT FROM '{OCI_CONFIG}'"
    f" AND config_media_type IS DISTINCT FROM '{DOCKER_CONFIG}'"
)
"""The condition of `manifests_unread_artifact_idx`, word for word: a query is answered from it."""

UNREAD_ARTIFACTS = f"""
SELECT m.repository_id, r.name AS repository, m.digest, coalesce(m.fetch_attempts, 0), m.media_type,
       true AS size_known
FROM (
  SELECT repository_id, digest, fetch_attempts, fetch_after, media_type FROM manifests
  WHERE {UNREAD_ARTIFACT}) m
JOIN repositories r ON r.id = m.repository_id
WHERE r.registry = $1 AND (m.fetch_after IS NULL OR m.fetch_after <= $2)
ORDER BY m.fetch_after NULLS FIRST LIMIT $3
"""  # noqa: S608 - a constant

COUNT_PENDING = """
SELECT count(*) FROM manifests WHERE present AND (blobs IS NULL OR claimed_ns >= 0)
"""


async def pending_manifests(
    connection: Connection, *, registry: str, now: datetime, limit: int
) -> list[PendingManifest]:
    """Manifests of one registry whose turn to be fetched has come."""
    return [
        PendingManifest(*row.values())
        for row in await connection.fetch(PENDING, registry, now, limit)
    ]


# What an earlier release read by its own rules, to be read again: while there is none it costs nothing.
READ_BEFORE = """
SELECT m.repository_id, r.name AS repository, m.digest, coalesce(m.fetch_attempts, 0) AS attempts,
       m.media_type, m.config_media_type, m.artifact_type, m.subject, m.subject_known, m.blobs,
       m.children, m.claimed_ns, m.read_by
FROM manifests m JOIN repositories r ON r.id = m.repository_id
WHERE m.present AND m.read_by IS NULL AND m.blobs IS NOT NULL AND m.claimed_ns < 0 AND r.registry = $1
  AND (m.fetch_after IS NULL OR m.fetch_after <= $2)
LIMIT $3
"""


async def read_before(
    connection: Connection, *, registry: str, now: datetime, limit: int
) -> list[tuple[PendingManifest, Content]]:
    """Existing manifests that an earlier release has read, and what it found in them."""
    found = []
    for row in await connection.fetch(READ_BEFORE, registry, now, limit):
        content = content_of_row(row)
        if content is not None:
            found.append((PendingManifest(*list(row.values())[:5]), content))
    return found


async def unread_artifacts(
    connection: Connection, *, registry: str, now: datetime, limit: int
) -> list[PendingManifest]:
    """Artifacts of one registry whose kind no notification told, and whose turn has come."""
    return [
        PendingManifest(*row.values())
        for row in await connection.fetch(UNREAD_ARTIFACTS, registry, now, limit)
    ]


async def count_pending(connection: Connection) -> int:
    """How many manifests wait for their content, whether due or not."""
    return int(await connection.fetchval(COUNT_PENDING))


async def status(connection: Connection, *, now: datetime) -> dict[str, Any]:
    """Outbox, pending sizes and where the consumers stand."""
    row = dict(await connection.fetchrow(STATUS, now))
    age = row["outbox_age_seconds"]
    row["outbox_age_seconds"] = None if age is None else max(0.0, float(age))
    row["partitions"] = [dict(item) for item in await connection.fetch(POSITIONS)]
    return row


async def ping(connection: Connection) -> None:
    """Whether the schema is there and answers."""
    await connection.fetchval("SELECT 1 FROM workspaces LIMIT 1")


NEWEST_SIGN = """
SELECT greatest(push_ns, seen_ns) FROM manifests
WHERE repository_id = $1 AND digest = $2 AND present
"""


async def newest_sign(connection: Connection, repository_id: int, digest: bytes) -> int | None:
    """Newest push of or look at a manifest, in nanoseconds; None when it does not exist (any more)."""
    found: int | None = await connection.fetchval(NEWEST_SIGN, repository_id, digest)
    return found


# The indexes of its repository that exist are searched for the digest's bytes.
NEEDED_BY_AN_INDEX = """
SELECT EXISTS (
  SELECT FROM manifests
  WHERE repository_id = $1 AND present AND children IS NOT NULL AND position($2::bytea IN children) > 0)
"""


async def needed_by_an_index(connection: Connection, repository_id: int, digest: bytes) -> bool:
    """Whether an index that exists has this manifest as its child."""
    return bool(await connection.fetchval(NEEDED_BY_AN_INDEX, repository_id, digest))


# A tag has room for the first bytes of a long digest only.
SUBJECT_EXISTS = """
SELECT EXISTS (
  SELECT FROM unnest($3::int[], $4::bytea[]) AS named(length, prefix)
  JOIN manifests m ON m.repository_id = $1 AND m.digest >= named.prefix
   AND m.digest <= named.prefix || decode(repeat('ff', named.length - octet_length(prefix)), 'hex')
  WHERE m.present AND octet_length(m.digest) = named.length AND m.digest <> $2)
"""


async def subject_exists(
    connection: Connection,
    repository_id: int,
    digest: bytes,
    subjects: Sequence[tuple[int, bytes]],
) -> bool:
    """Whether any of a manifest's subjects exists: (length of the digest, its first bytes)."""
    lengths = [length for length, _prefix in subjects]
    prefixes = [prefix for _length, prefix in subjects]
    return bool(await connection.fetchval(SUBJECT_EXISTS, repository_id, digest, lengths, prefixes))


# On another manifest than the one that asks.
TAG_ANSWERS = f"""
SELECT EXISTS (
  SELECT FROM tags t JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
  WHERE t.repository_id = $1 AND t.name = ANY($3::text[]) AND t.digest <> $2 AND {LIVE_TAG_CONDITION})
"""  # noqa: S608 - a constant


async def tag_answers(
    connection: Connection, repository_id: int, digest: bytes, names: Sequence[str]
) -> bool:
    """Whether any of these tags names another manifest than this one."""
    if not names:
        return False
    return bool(await connection.fetchval(TAG_ANSWERS, repository_id, digest, names))


PULLED = """
SELECT m.repository_id, m.digest, m.pulled_ns FROM manifests m
JOIN unnest($1::int[], $2::bytea[]) AS wanted(repository_id, digest) USING (repository_id, digest)
"""


async def pulled_ns(
    connection: Connection, keys: Sequence[tuple[int, bytes]]
) -> dict[tuple[int, bytes], int]:
    """(repository id, digest) → its newest pull, in nanoseconds; -1: never."""
    rows = await connection.fetch(PULLED, [key[0] for key in keys], [key[1] for key in keys])
    return {(row["repository_id"], row["digest"]): row["pulled_ns"] for row in rows}


RULES = "SELECT quota_bytes, policy FROM workspaces WHERE id = $1"


async def rules(connection: Connection, workspace_id: int) -> tuple[int, dict[str, Any]]:
    """Quota in bytes and policy of a workspace, as they are now."""
    row = await connection.fetchrow(RULES, workspace_id)
    return row["quota_bytes"], msgspec.json.decode(row["policy"])


OWNER = "SELECT workspace_id FROM repositories WHERE id = $1"


async def owner_of(connection: Connection, repository_id: int) -> int:
    """The workspace that a repository counts for, as it is now."""
    owner: int = await connection.fetchval(OWNER, repository_id)
    return owner


STRICT_WORKSPACES = "SELECT name FROM workspaces WHERE enforcement = 'strict'"


async def strict_workspaces(connection: Connection) -> set[str]:
    """Names of the workspaces whose builds may be denied."""
    return {row["name"] for row in await connection.fetch(STRICT_WORKSPACES)}
