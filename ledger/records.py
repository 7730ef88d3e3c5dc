"""Records of the internal API: one for each live tag. Reads only; what is told goes in as facts."""

from collections.abc import AsyncIterator

import asyncpg
import msgspec

from ledger import store
from ledger.fold import Manifest, Tag
from ledger.reading import LIVE_TAG_CONDITION, MANIFEST_COLUMNS, PUSHED, ManifestView, view_of_row
from runtime.postgres import Connection

_PART = 1000

# A push that an event told has a time, an image that was found an estimate; else the look counts.
_RECORDS = f"""
SELECT {MANIFEST_COLUMNS}, t.name AS tag, r.workspace_id, w.name AS workspace,
       CASE WHEN m.push_ns < 0 AND coalesce(m.dated_ns, -1) < 0 AND m.created_ns < 0
            THEN m.seen_ns ELSE {PUSHED} END AS moment_ns
FROM repositories r JOIN workspaces w ON w.id = r.workspace_id
JOIN tags t ON t.repository_id = r.id
JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
WHERE {LIVE_TAG_CONDITION}
"""  # noqa: S608 - constants

OF_WORKSPACE = f"{_RECORDS} AND r.workspace_id = $1 ORDER BY moment_ns, m.repository_id, t.name"

ONE = f"{_RECORDS} AND r.id = $1 AND t.name = $2"

# The repository that is this app of this workspace; one that was mapped by hand first.
FIND_APP = """
SELECT r.name FROM repositories r JOIN workspaces w ON w.id = r.workspace_id
WHERE r.registry = $1 AND w.name = $2 AND r.app = $3
ORDER BY r.mapped DESC, r.name = $4 DESC, r.id LIMIT 1
"""

FIND_REPOSITORY = "SELECT id, mapped FROM repositories WHERE registry = $1 AND name = $2"


class RecordView(msgspec.Struct, frozen=True):
    """A live tag and the manifest it names. `pushed_ns` in nanoseconds, UTC."""

    manifest: ManifestView
    tag: str
    workspace_id: int
    workspace: str
    pushed_ns: int


class Standing(msgspec.Struct, frozen=True):
    """What is known of a tag and of a manifest, whether they are there or not."""

    tag: Tag
    manifest: Manifest


def _record(row: asyncpg.Record) -> RecordView:
    return RecordView(
        view_of_row(row, ()), row["tag"], row["workspace_id"], row["workspace"], row["moment_ns"]
    )


async def of_workspace(
    connection: Connection, workspace_id: int
) -> AsyncIterator[list[RecordView]]:
    """All records, oldest push first, in parts. Call it in one REPEATABLE READ transaction."""
    part: list[RecordView] = []
    async for row in connection.cursor(OF_WORKSPACE, workspace_id, prefetch=_PART):
        part.append(_record(row))
        if len(part) == _PART:
            yield part
            part = []
    if part:
        yield part


async def one(connection: Connection, repository_id: int, tag: str) -> RecordView | None:
    """The record of a live tag."""
    row = await connection.fetchrow(ONE, repository_id, tag)
    return None if row is None else _record(row)


async def repository_of_app(
    connection: Connection, registry: str, workspace: str, app: str, *, usual: str
) -> str | None:
    """The repository that counts as this app of this workspace; `usual` when several do."""
    found: str | None = await connection.fetchval(FIND_APP, registry, workspace, app, usual)
    return found


async def find_repository(
    connection: Connection, registry: str, name: str
) -> tuple[int, bool] | None:
    """(id, whether somebody mapped it by hand)."""
    row = await connection.fetchrow(FIND_REPOSITORY, registry, name)
    return None if row is None else (row["id"], row["mapped"])


async def standing(
    connection: Connection, repository_id: int, tag: str, digest: bytes | None = None
) -> Standing:
    """A tag, and the manifest `digest`, or else the one that the tag names."""
    tags = await store.load_tags(connection, [(repository_id, tag)])
    found = tags.get((repository_id, tag), Tag())
    named = found.digest if digest is None else digest
    if named is None:
        return Standing(found, Manifest())
    key = (repository_id, named)
    manifests = await store.load_manifests(connection, [key])
    return Standing(found, manifests.get(key, Manifest()))


async def other_live_tags(
    connection: Connection, repository_id: int, digest: bytes, manifest: Manifest, tag: str
) -> bool:
    """Whether another tag than this one answers with the manifest."""
    tags = await store.load_tags_on(connection, [(repository_id, digest)])
    return any(item.live(manifest) for key, item in tags.items() if key[1] != tag)
