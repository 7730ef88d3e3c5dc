"""Postgres's own limit: the rows of a backlog by bare `unnest` upserts, without any thinking.

The same tables, the same rows, batches of the same size in the order of the log (partition by partition)
and one transaction for each on one connection; what has to be computed is ready before the clock starts.
Nothing is read, compared or decided: references are added up by the upsert itself.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from consumer.translate import facts_of
from ledger import outbox
from ledger.announce import rfc3339
from ledger.apps import SAVE_HISTORIES
from ledger.facts import ManifestPushed
from ledger.history import SAMPLE
from ledger.packing import pack_blobs, pack_digests
from ledger.settlement import MOST_REMEMBERED, Remembered, pack_history
from ledger.statements import ADD_SIZE_CHECK
from registry.names import format_digest
from registry.notifications import decode_event
from registry.workspaces import WorkspaceRule
from runtime.settings import Settings

MANIFESTS = """
INSERT INTO manifests (repository_id, digest, push_ns, push_id, size, media_type,
                       config_media_type, blobs, children, present)
SELECT *, true FROM unnest($1::int[], $2::bytea[], $3::int8[], $4::bytea[], $5::int8[], $6::text[],
                           $7::text[], $8::bytea[], $9::bytea[])
ON CONFLICT (repository_id, digest) DO UPDATE
SET push_ns = excluded.push_ns, push_id = excluded.push_id
"""

TAGS = """
INSERT INTO tags (repository_id, name, digest, set_ns, set_id)
SELECT * FROM unnest($1::int[], $2::text[], $3::bytea[], $4::int8[], $5::bytea[])
ON CONFLICT (repository_id, name) DO UPDATE
SET digest = excluded.digest, set_ns = excluded.set_ns, set_id = excluded.set_id
"""

HOLDINGS = """
INSERT INTO workspace_digests (digest, workspace_id, refs, size, stored, mixed)
SELECT *, false, false FROM unnest($1::bytea[], $2::int[], $3::int[], $4::int8[])
ON CONFLICT (digest, workspace_id) DO UPDATE SET refs = workspace_digests.refs + excluded.refs
"""

OUTBOX = """
INSERT INTO outbox (event_id, workspace_id, workspace, type, data, occurred_at)
SELECT event_id, workspace_id, workspace, type, data::json, now()
FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[])
  AS g(event_id, workspace_id, workspace, type, data)
"""

USAGE = """
UPDATE workspaces w SET usage_bytes = w.usage_bytes + g.bytes
FROM unnest($1::int[], $2::int8[]) AS g(id, bytes) WHERE w.id = g.id
"""

Statement = tuple[str, list[Any]]


class _Seen(msgspec.Struct):
    """What the batches before have left."""

    manifests: set[tuple[int, bytes]] = msgspec.field(default_factory=set)
    usage: Counter[int] = msgspec.field(default_factory=Counter)
    recent: dict[tuple[int, str], list[Remembered]] = msgspec.field(default_factory=dict)
    """(workspace id, app) → its last pushes."""


async def prepare(
    connection: asyncpg.Connection, raws: Sequence[bytes], batch: int
) -> tuple[list[list[Statement]], int]:
    """The statements of each batch, and how many rows they write in all. Repositories are made."""
    rule = WorkspaceRule(Settings.model_fields["workspace_pattern"].default)
    facts = [facts_of("default", decode_event(raw)) for raw in raws]
    pushes = [fact for fact in facts if isinstance(fact, ManifestPushed)]
    names = sorted({fact.repository for fact in pushes})
    workspaces = sorted({rule.split(name).workspace for name in names})
    await connection.execute(
        "INSERT INTO workspaces (name, quota_bytes) SELECT name, 1 << 40 FROM unnest($1::text[]) name",
        workspaces,
    )
    ids = {
        row["name"]: row["id"] for row in await connection.fetch("SELECT id, name FROM workspaces")
    }
    await connection.execute(
        """INSERT INTO repositories (registry, name, workspace_id, app)
           SELECT 'default', * FROM unnest($1::text[], $2::int[], $3::text[])""",
        names,
        [ids[rule.split(name).workspace] for name in names],
        [rule.split(name).app for name in names],
    )
    repositories = {
        row["name"]: (row["id"], row["workspace_id"])
        for row in await connection.fetch("SELECT id, name, workspace_id FROM repositories")
    }
    batches, rows = [], 0
    seen = _Seen()
    for start in range(0, len(pushes), batch):
        statements = _statements(pushes[start : start + batch], repositories, rule, seen)
        rows += sum(
            len(columns[0]) if isinstance(columns[0], list) else 1
            for _statement, columns in statements
        )
        batches.append(statements)
    return batches, rows


def _statements(
    pushes: Sequence[ManifestPushed],
    repositories: dict[str, tuple[int, int]],
    rule: WorkspaceRule,
    seen: _Seen,
) -> list[Statement]:
    manifests: dict[tuple[int, bytes], tuple[Any, ...]] = {}
    tags: dict[tuple[int, str], tuple[Any, ...]] = {}
    refs: Counter[tuple[bytes, int]] = Counter()
    sizes: dict[bytes, int] = {}
    usage: Counter[int] = Counter()
    events: list[tuple[Any, ...]] = []
    unconfirmed: list[tuple[bytes, int]] = []
    apps: set[tuple[int, str]] = set()
    for push in pushes:
        repository, workspace = repositories[push.repository]
        key, content = (repository, push.digest), push.content
        if content is None:
            continue
        manifests[key] = (
            *(*key, *push.stamp, push.size, push.media_type, content.config_media_type or None),
            pack_blobs(content.blobs),
            pack_digests(content.children) or None,
        )
        tags[repository, push.tag or ""] = (repository, push.tag, push.digest, *push.stamp)
        if key in seen.manifests:
            continue
        seen.manifests.add(key)
        for digest, size in (*content.blobs, (push.digest, push.size)):
            refs[digest, workspace] += 1
            sizes[digest] = size
            usage[workspace] += size
        place = rule.split(push.repository)
        size = sum(size for _digest, size in content.blobs)
        recent = seen.recent.setdefault((workspace, place.app), [])
        recent.append(Remembered(push.digest[:8], size, tagged=True))
        apps.add((workspace, place.app))
        if content.blobs:
            unconfirmed.append((push.digest, repository))
        data = {
            "registry": "default",
            "repository": push.repository,
            "app": place.app,
            "digest": format_digest(push.digest),
            "tags": [push.tag],
            "media_type": push.media_type,
            "size_bytes": size,
            "pushed_at": rfc3339(push.stamp[0]),
        }
        event_id, text = uuid.uuid4(), msgspec.json.encode(data).decode()
        events.append((event_id, workspace, place.workspace, outbox.IMAGE_RECORDED, text))
    seen.usage.update(usage)
    holdings = [(*key, count, sizes[key[0]]) for key, count in refs.items()]
    histories = [(*app, pack_history(seen.recent[app][-MOST_REMEMBERED:])) for app in apps]
    now = datetime.now(UTC)
    statements: list[Statement] = [
        (sql, [list(column) for column in zip(*sorted(rows), strict=True)])
        for sql, rows in (
            (MANIFESTS, manifests.values()),
            (TAGS, tags.values()),
            (HOLDINGS, holdings),
            (SAVE_HISTORIES, histories),
            (OUTBOX, events),
            (USAGE, usage.items()),
        )
        if rows
    ]
    if usage:
        ids = sorted(usage)
        used, quotas = [seen.usage[key] for key in ids], [1 << 40] * len(ids)
        statements.append((SAMPLE, [ids, used, quotas, now]))
        statements.append((ADD_SIZE_CHECK, [pack_blobs(unconfirmed), now, 0]))
    return statements


async def write(connection: asyncpg.Connection, batches: list[list[Statement]]) -> None:
    """The part that is measured."""
    for statements in batches:
        async with connection.transaction():
            for sql, columns in statements:
                await connection.execute(sql, *columns)
