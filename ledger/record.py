"""Record facts: one transaction that moves manifests, tags, bytes, levels and events together."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec

from ledger import outbox, statements, store
from ledger.announce import image_events
from ledger.counting import Change, Holding, contribution, count, learn_size
from ledger.facts import (
    BlobStored,
    Content,
    Fact,
    ManifestPushed,
    ManifestSeen,
    RepositoryFact,
)
from ledger.fold import ManifestKey, State, TagKey, fold, manifest_key, tag_key
from ledger.outbox import QuotaEvent
from ledger.packing import unpack_blobs
from registry.names import format_digest
from registry.workspaces import WorkspaceRule
from runtime.postgres import Connection, Pool, retry_conflicts

LevelRule = Callable[[Any, int, int], str]
"""(level last announced, usage bytes, quota bytes) → level. The rule itself is policy: quota/."""

RepositoryName = tuple[str, str]
"""(registry, repository)"""


class Recorded(msgspec.Struct):
    """What a transaction did."""

    usage: dict[int, tuple[int, int]] = {}
    """Workspace id → bytes before and after."""
    gone: frozenset[ManifestKey] = frozenset()
    """Manifests that existed before it and do not any more."""

    def freed(self, workspace_id: int) -> int:
        """Bytes that a workspace's usage fell by (0 when it rose)."""
        before, after = self.usage.get(workspace_id, (0, 0))
        return max(0, before - after)


Within = Callable[[Connection, Recorded], Awaitable[None]]

_MOST_CACHED = 200_000


class Repository(msgspec.Struct, frozen=True):
    """A repository as the recording path knows it."""

    id: int
    workspace_id: int


class Workspace(msgspec.Struct):
    """A workspace whose row is locked."""

    id: int
    name: str
    quota_bytes: int
    usage_bytes: int
    level: str
    has_images: bool


class RepositoryInfo(msgspec.Struct, frozen=True):
    """A repository's names, for events."""

    registry: str
    name: str
    workspace_id: int
    app: str


class _RetakeError(Exception):
    """The locks taken were not the right ones: roll back and begin again with these."""

    def __init__(self, also: set[int]) -> None:
        super().__init__(f"workspaces {sorted(also)} are needed too")
        self.also = also


class Recorder:
    """Takes facts into the ledger. One per process; it caches which repository belongs where."""

    def __init__(
        self,
        pool: Pool,
        *,
        rule: WorkspaceRule,
        default_quota_bytes: int,
        level_of: LevelRule,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._rule = rule
        self._default_quota_bytes = default_quota_bytes
        self._level_of = level_of
        self._new_id = new_id
        self._repositories: dict[RepositoryName, Repository] = {}

    async def record(
        self,
        facts: Sequence[Fact],
        *,
        now: datetime,
        source: str | None = None,
        within: Within | None = None,
    ) -> Recorded:
        """Apply facts in one transaction; conflicts with other writers are retried.

        `source` names who observed them: such facts are kept as observations, so that a replay of
        the log finds them. Facts of the log itself have no source. `within` runs in the same
        transaction, last (offsets, a cleanup's audit); what it raises rolls everything back.
        """
        also: set[int] = set()

        async def attempt() -> Recorded:
            await self._find_repositories(facts)
            async with self._pool.acquire() as connection, connection.transaction():
                recorded = await self._apply(connection, facts, now, also)
                if source is not None:
                    await _observe(connection, facts, source)
                if within is not None:
                    await within(connection, recorded)
            return recorded

        while True:
            try:
                return await retry_conflicts(attempt)
            except _RetakeError as error:
                also |= error.also
                self._repositories.clear()

    async def _find_repositories(self, facts: Sequence[Fact]) -> None:
        """Fill the cache; repositories and workspaces heard of for the first time appear."""
        wanted = {
            (fact.registry, fact.repository) for fact in facts if not isinstance(fact, BlobStored)
        }
        if len(self._repositories) > _MOST_CACHED:
            self._repositories.clear()
        unknown = sorted(wanted - self._repositories.keys())
        if not unknown:
            return
        async with self._pool.acquire() as connection:
            await self._look_up(connection, unknown)
            missing = [name for name in unknown if name not in self._repositories]
            if missing:
                split = [self._rule.split(name) for _registry, name in missing]
                await connection.execute(
                    statements.ADD_WORKSPACES,
                    sorted({workspace for workspace, _app in split}),
                    self._default_quota_bytes,
                )
                await connection.execute(
                    statements.ADD_REPOSITORIES,
                    [registry for registry, _name in missing],
                    [name for _registry, name in missing],
                    [workspace for workspace, _app in split],
                    [app for _workspace, app in split],
                )
                await self._look_up(connection, missing)

    async def _look_up(self, connection: Connection, names: list[RepositoryName]) -> None:
        rows = await connection.fetch(
            statements.FIND_REPOSITORIES,
            [registry for registry, _name in names],
            [name for _registry, name in names],
        )
        for row in rows:
            self._repositories[row["registry"], row["name"]] = Repository(
                row["id"], row["workspace_id"]
            )

    async def _apply(
        self, connection: Connection, facts: Sequence[Fact], now: datetime, also: set[int]
    ) -> Recorded:
        located = [
            (self._repositories[fact.registry, fact.repository], fact)
            for fact in facts
            if not isinstance(fact, BlobStored)
        ]
        stored = _largest(fact for fact in facts if isinstance(fact, BlobStored))
        workspaces = await self._lock(
            connection, {repository.workspace_id for repository, _fact in located} | also
        )
        usage_before = {item.id: item.usage_bytes for item in workspaces.values()}
        infos = await _repository_infos(connection, located)
        before, state = await _load(connection, located)
        was = {key: (m.present, m.content, m) for key, m in before.manifests.items()}
        for repository, fact in located:
            fold(state, repository.id, fact)

        changed_manifests = {
            key: manifest
            for key, manifest in state.manifests.items()
            if before.manifests.get(key) != manifest
        }
        changed_tags = {key: tag for key, tag in state.tags.items() if before.tags.get(key) != tag}
        await store.save_manifests(connection, changed_manifests)
        await store.save_tags(connection, changed_tags)

        changes: dict[int, Change] = {}
        for key, manifest in sorted(changed_manifests.items(), key=lambda item: item[0]):
            was_present, was_content, old = was.get(key, (False, None, None))
            if (was_present, was_content) == (manifest.present, manifest.content):
                continue
            change = changes.setdefault(infos[key[0]].workspace_id, Change())
            if was_present and old is not None:
                change.remove(contribution(key[1], old))
            if manifest.present:
                change.add(key[1], contribution(key[1], manifest))
        events = image_events(before, state, changed_manifests, changed_tags, infos, workspaces)
        events += await self._count(connection, workspaces, changes, stored, now)
        for repository, fact in located:
            if isinstance(fact, ManifestPushed | ManifestSeen):
                workspaces[repository.workspace_id].has_images = True
        events += self._levels(workspaces)
        await _save_workspaces(connection, workspaces, now)
        await outbox.add_events(connection, events, now=now, new_id=self._new_id)
        return Recorded(
            {item.id: (usage_before[item.id], item.usage_bytes) for item in workspaces.values()},
            frozenset(
                key for key, old in was.items() if old[0] and not state.manifests[key].present
            ),
        )

    async def _lock(self, connection: Connection, ids: set[int]) -> dict[int, Workspace]:
        rows = await connection.fetch(statements.LOCK_WORKSPACES, sorted(ids))
        return {row["id"]: Workspace(*row.values()) for row in rows}

    async def _count(
        self,
        connection: Connection,
        workspaces: dict[int, Workspace],
        changes: dict[int, Change],
        stored: dict[bytes, int],
        now: datetime,
    ) -> list[QuotaEvent]:
        """Move reference counts and usage; returns what is to be said about wrong sizes."""
        events: list[QuotaEvent] = []
        touched: dict[int, dict[bytes, Holding]] = {}
        if stored:
            await store.save_stored(connection, stored)
            holders = await store.load_holders(connection, stored)
            wrong = {
                workspace_id
                for workspace_id, holdings in holders.items()
                if workspace_id not in workspaces
                and any(holding.size != stored[digest] for digest, holding in holdings.items())
            }
            if wrong:
                # Storage contradicts what another workspace declared: its usage changes, too.
                raise _RetakeError(wrong)
            for workspace_id in holders.keys() & workspaces.keys():
                for digest, holding in holders[workspace_id].items():
                    if holding.stored and holding.size == stored[digest]:
                        continue
                    if holding.size != stored[digest] and holding.refs > 0:
                        events.append(
                            _mismatch(
                                workspaces[workspace_id], digest, holding.size, stored[digest]
                            )
                        )
                    workspaces[workspace_id].usage_bytes += learn_size(holding, stored[digest])
                    touched.setdefault(workspace_id, {})[digest] = holding
        wanted = {
            (workspace_id, digest)
            for workspace_id, change in changes.items()
            for digest in change.refs
            if digest not in touched.get(workspace_id, {})
        }
        loaded = await store.load_holdings(connection, wanted)
        unsure = {
            digest
            for workspace_id, digest in wanted
            if not ((known := loaded.get(workspace_id, {}).get(digest)) and known.stored)
        }
        truths = {**await store.load_stored(connection, unsure), **stored}
        for workspace_id, change in sorted(changes.items()):
            workspace = workspaces[workspace_id]
            holdings = touched.setdefault(workspace_id, {})
            for digest, holding in loaded.get(workspace_id, {}).items():
                holdings.setdefault(digest, holding)
            counted = count(holdings, change, truths)
            workspace.usage_bytes += counted.usage_delta
            for digest in counted.recount:
                workspace.usage_bytes += await _recount(
                    connection, workspace_id, digest, holdings[digest]
                )
            events += [
                _mismatch(workspace, item.digest, item.declared, item.stored)
                for item in counted.mismatches
            ]
        await store.save_holdings(connection, touched, now)
        return events

    def _levels(self, workspaces: dict[int, Workspace]) -> list[QuotaEvent]:
        events = []
        for workspace in workspaces.values():
            level = self._level_of(workspace.level, workspace.usage_bytes, workspace.quota_bytes)
            if level != workspace.level:
                events.append(level_event(workspace, level))
                workspace.level = level
        return events


def level_event(workspace: Workspace, level: str) -> QuotaEvent:
    """`usage.level_changed.v1` of a workspace that still carries its previous level."""
    return QuotaEvent(
        workspace.id,
        workspace.name,
        outbox.LEVEL_CHANGED,
        {
            "level": level,
            "previous_level": workspace.level,
            "usage_bytes": workspace.usage_bytes,
            "quota_bytes": workspace.quota_bytes,
            "ratio": round(workspace.usage_bytes / workspace.quota_bytes, 4),
        },
    )


async def _load(
    connection: Connection, located: list[tuple[Repository, RepositoryFact]]
) -> tuple[State, State]:
    """The state before the facts, twice: one to compare with, one to fold into."""
    tag_keys: set[TagKey] = set()
    manifest_keys: set[ManifestKey] = set()
    children: set[ManifestKey] = set()
    deleted: set[ManifestKey] = set()
    for repository, fact in located:
        if (key := tag_key(repository.id, fact)) is not None:
            tag_keys.add(key)
        if (named := manifest_key(repository.id, fact)) is not None:
            manifest_keys.add(named)
            content: Content | None = getattr(fact, "content", None)
            if content is not None:
                children.update((repository.id, digest) for digest in content.children)
            elif not isinstance(fact, ManifestPushed | ManifestSeen):
                deleted.add(named)
    tags = await store.load_tags(connection, tag_keys)
    tags |= await store.load_tags_on(connection, deleted)
    named_by_tags = {(key[0], tag.digest) for key, tag in tags.items() if tag.digest is not None}
    manifests = await store.load_manifests(connection, manifest_keys | named_by_tags | children)
    # An index of indexes: its size is that of all its images.
    while (
        missing := {
            (key[0], digest)
            for key, manifest in manifests.items()
            if key in children and manifest.content is not None
            for digest in manifest.content.children
        }
        - children
    ):
        children |= missing
        manifests |= await store.load_manifests(connection, missing - manifests.keys())
    before = State(manifests, tags)
    # The structs are shared by nobody: a shallow copy of each is enough (their members never change).
    state = State(
        {key: msgspec.structs.replace(manifest) for key, manifest in manifests.items()},
        {key: msgspec.structs.replace(tag) for key, tag in tags.items()},
    )
    return before, state


async def _repository_infos(
    connection: Connection, located: list[tuple[Repository, RepositoryFact]]
) -> dict[int, RepositoryInfo]:
    """Names of the repositories, read under the locks. Raises when one was mapped elsewhere."""
    cached = {
        repository.id: (repository.workspace_id, fact.registry) for repository, fact in located
    }
    rows = await connection.fetch(statements.WORKSPACES_OF_REPOSITORIES, sorted(cached))
    moved = {row["workspace_id"] for row in rows if row["workspace_id"] != cached[row["id"]][0]}
    if moved:
        raise _RetakeError(moved)
    return {
        row["id"]: RepositoryInfo(
            cached[row["id"]][1], row["name"], row["workspace_id"], row["app"]
        )
        for row in rows
    }


async def _recount(
    connection: Connection, workspace_id: int, digest: bytes, holding: Holding
) -> int:
    """Seek the largest size that remaining manifests declare; returns the change of usage."""
    rows = await connection.fetch(statements.DECLARING_MANIFESTS, workspace_id, digest)
    sizes = {
        size for row in rows for member, size in unpack_blobs(row["blobs"]) if member == digest
    }
    before = holding.counted
    if sizes:
        holding.size, holding.mixed = max(sizes), len(sizes) > 1
    return holding.counted - before


async def _save_workspaces(
    connection: Connection, workspaces: dict[int, Workspace], now: datetime
) -> None:
    ordered = sorted(workspaces.values(), key=lambda workspace: workspace.id)
    await connection.execute(
        statements.SAVE_USAGE,
        [workspace.id for workspace in ordered],
        [workspace.usage_bytes for workspace in ordered],
        [workspace.level for workspace in ordered],
        [workspace.has_images for workspace in ordered],
        now,
    )


async def _observe(connection: Connection, facts: Sequence[Fact], source: str) -> None:
    rows: list[tuple[Any, ...]] = []
    for fact in facts:
        stamp = getattr(fact, "stamp", (0, b""))
        rows.append(
            (
                getattr(fact, "registry", ""),
                getattr(fact, "repository", None),
                type(fact).__name__,
                stamp[0],
                stamp[1],
                msgspec.json.encode(fact).decode(),
            )
        )
    if rows:
        await connection.execute(
            statements.ADD_OBSERVATIONS,
            source,
            *(list(column) for column in zip(*rows, strict=True)),
        )


def _largest(facts: Iterable[BlobStored]) -> dict[bytes, int]:
    sizes: dict[bytes, int] = {}
    for fact in facts:
        sizes[fact.digest] = max(fact.size, sizes.get(fact.digest, 0))
    return sizes


def _mismatch(workspace: Workspace, digest: bytes, declared: int, stored: int) -> QuotaEvent:
    return QuotaEvent(
        workspace.id,
        workspace.name,
        outbox.SIZE_MISMATCH,
        {"digest": format_digest(digest), "declared_bytes": declared, "stored_bytes": stored},
    )
