"""Record facts: one transaction that moves manifests, tags, bytes, levels and events together."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from ledger import account, apps, history, outbox, statements, store
from ledger.account import RetakeError
from ledger.ahead import SKEW_NS, told_ahead
from ledger.announce import image_events
from ledger.counting import Change, contribution
from ledger.facts import (
    NEVER,
    SIGNS,
    BlobStored,
    Ceiling,
    Content,
    DigestDeleted,
    Fact,
    ManifestDeleted,
    RepositoryFact,
    TagRemoved,
)
from ledger.fold import (
    Manifest,
    ManifestKey,
    State,
    Tag,
    TagKey,
    fold,
    manifest_key,
    odd_of,
    tag_key,
    work_out,
)
from ledger.outbox import QuotaEvent
from ledger.settlement import TaggedPush, tagged_push
from ledger.words import greatest
from registry.workspaces import WorkspaceRule
from runtime.postgres import Connection, Pool, retry_conflicts
from runtime.settings import DEFAULT_REGISTRY

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

RECONCILE = "reconcile"
"""The source of facts that reconciliation observed."""

_MOST_CACHED = 200_000
_CHECK_TAGS_AFTER = timedelta(seconds=2)
_CHECK_MANIFESTS_AFTER = timedelta(seconds=2)
_CHECK_SIZES_AFTER = timedelta(seconds=10)
"""Blob push events usually come before; what they tell needs no question."""


class Repository(msgspec.Struct, frozen=True):
    """A repository as the recording path knows it."""

    id: int
    workspace_id: int
    unsure_ns: int | None = None
    """From then on a delete may be of a blob that nobody kept: one from before this release, or from
    before the installation (0)."""


Located = tuple[Repository, RepositoryFact]


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
        clock_skew_ns: int = SKEW_NS,
    ) -> None:
        """`clock_skew_ns`: how far ahead of its arrival a stamp is believed, in nanoseconds."""
        self._skew_ns = clock_skew_ns
        self._pool = pool
        self._rule = rule
        self._default_quota_bytes = default_quota_bytes
        self._level_of = level_of
        self._new_id = new_id
        self._cached: dict[RepositoryName, Repository] = {}

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
            located = await self._locate(facts, found=source == RECONCILE)
            async with self._pool.acquire() as connection, connection.transaction():
                arrived_ns = -1
                if source is not None:
                    arrived_ns = await connection.fetchval(statements.ARRIVED)
                    located = [(where, told_ahead(fact, arrived_ns)) for where, fact in located]
                recorded = await self._apply(
                    connection, facts, located, now, also, arrived_ns, found=source == RECONCILE
                )
                if source is not None:
                    await _observe(connection, facts, source)
                if within is not None:
                    await within(connection, recorded)
            return recorded

        while True:
            try:
                return await retry_conflicts(attempt)
            except RetakeError as error:
                also |= error.also
                self._cached.clear()

    async def _locate(self, facts: Sequence[Fact], *, found: bool) -> list[Located]:
        """Facts with their repositories; those and workspaces heard of for the first time appear.

        A workspace that was only `found` is not cleaned before somebody configured it.
        """
        of_repositories = [
            fact for fact in facts if not isinstance(fact, BlobStored) or fact.repository
        ]
        wanted = {(fact.registry, fact.repository) for fact in of_repositories}
        # Others may empty the cache meanwhile: what is wanted here is held here, too.
        here = {name: self._cached[name] for name in wanted if name in self._cached}
        unknown = sorted(wanted - here.keys())
        if unknown:
            async with self._pool.acquire() as connection:
                here |= await _look_up(connection, unknown)
                missing = [name for name in unknown if name not in here]
                if missing:
                    await self._add(connection, missing, found=found)
                    here |= await _look_up(connection, missing)
            if len(self._cached) > _MOST_CACHED:
                self._cached.clear()
            self._cached |= {name: here[name] for name in unknown}
        return [(here[fact.registry, fact.repository], fact) for fact in of_repositories]

    async def _add(
        self, connection: Connection, names: list[RepositoryName], *, found: bool
    ) -> None:
        split = [self._rule.split(name) for _registry, name in names]
        await connection.execute(
            statements.ADD_WORKSPACES,
            sorted({workspace for workspace, _app in split}),
            self._default_quota_bytes,
            found,
        )
        await connection.execute(
            statements.ADD_REPOSITORIES,
            [registry for registry, _name in names],
            [name for _registry, name in names],
            [workspace for workspace, _app in split],
            [app for _workspace, app in split],
            found,
        )

    async def _apply(
        self,
        connection: Connection,
        facts: Sequence[Fact],
        located: Sequence[Located],
        now: datetime,
        also: set[int],
        arrived_ns: int,
        *,
        found: bool,
    ) -> Recorded:
        """`arrived_ns` is when observations arrive; -1 for what others told or observed before."""
        stored = greatest(fact for fact in facts if isinstance(fact, BlobStored))
        workspaces = await self._lock(
            connection, {repository.workspace_id for repository, _fact in located} | also
        )
        usage_before = {item.id: item.usage_bytes for item in workspaces.values()}
        infos = await _repository_infos(connection, located)
        before, state = await _load(connection, located, self._skew_ns)
        if arrived_ns >= 0:
            _heal(state, located, arrived_ns)
        pushes: list[tuple[int, TaggedPush]] = []
        for repository, fact in located:
            if (push := tagged_push(state, repository.id, fact)) is not None:
                pushes.append((repository.id, push))
            fold(state, repository.id, fact)

        changed_manifests = {
            key: manifest
            for key, manifest in state.manifests.items()
            if before.manifests.get(key) != manifest
        }
        changed_tags = {key: tag for key, tag in state.tags.items() if before.tags.get(key) != tag}
        await store.save_manifests(connection, changed_manifests, before.manifests)
        renamed = _deleted_between(before, state, changed_manifests)
        await store.save_tags(connection, renamed | changed_tags, before.tags, state.manifests)
        await store.add_tag_checks(connection, state.raced, now + _CHECK_TAGS_AFTER)
        await store.add_manifest_checks(
            connection,
            state.doubted | {key for key, item in changed_manifests.items() if item.asked_for},
            now + _CHECK_MANIFESTS_AFTER,
        )

        changes: dict[int, Change] = {}
        arrived: dict[ManifestKey, Manifest] = {}
        for key, manifest in sorted(changed_manifests.items(), key=lambda item: item[0]):
            old = before.manifests.get(key, Manifest())
            if (old.present, old.content, old.size) == (
                manifest.present,
                manifest.content,
                manifest.size,
            ):
                continue
            change = changes.setdefault(infos[key[0]].workspace_id, Change())
            if old.present:
                change.remove(key[1], contribution(key[1], old))
            if manifest.present:
                change.add(key[1], contribution(key[1], manifest))
                arrived[key] = manifest
        events = image_events(before, state, changed_manifests, changed_tags, infos, workspaces)
        events += await account.move(connection, workspaces, changes, stored, now)
        await apps.take_pushes(connection, before.manifests, arrived, pushes, infos, changes, now)
        unconfirmed = _unconfirmed(changed_manifests, infos, changes)
        await store.add_size_check(connection, unconfirmed, now + _CHECK_SIZES_AFTER)
        for repository, fact in located:
            if isinstance(fact, SIGNS):
                workspaces[repository.workspace_id].has_images = True
        events += self._levels(workspaces)
        await save_workspaces(connection, workspaces, now, found=found)
        moved = [item for item in workspaces.values() if item.usage_bytes != usage_before[item.id]]
        await history.sample(connection, moved, now)
        await outbox.add_events(connection, events, now=now, new_id=self._new_id)
        return Recorded(
            {item.id: (usage_before[item.id], item.usage_bytes) for item in workspaces.values()},
            frozenset(
                key
                for key, old in before.manifests.items()
                if old.present and not state.manifests[key].present
            ),
        )

    async def _lock(self, connection: Connection, ids: set[int]) -> dict[int, Workspace]:
        rows = await connection.fetch(statements.LOCK_WORKSPACES, sorted(ids))
        return {row["id"]: Workspace(*row.values()) for row in rows}

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


def _heal(state: State, located: Sequence[Located], now_ns: int) -> None:
    """What an earlier release believed of the future stands in the way of no ceiling."""
    for repository, fact in located:
        if not isinstance(fact, Ceiling):
            continue
        before_ns = min(fact.stamp[0], fact.arrived_ns)
        key, named = tag_key(repository.id, fact), manifest_key(repository.id, fact)
        item = state.tags.get(key) if key is not None else None
        manifest = state.manifests.get(named) if named is not None else None
        for known in (item, manifest):
            if known is not None:
                known.odd = (known.odd or odd_of(known)).healed(now_ns, before_ns, state.skew_ns)
                work_out(known, state.skew_ns)
        if manifest is not None and manifest.pulled_ns > now_ns + state.skew_ns:
            manifest.pulled_ns = before_ns


async def _load(
    connection: Connection, located: Sequence[Located], skew_ns: int
) -> tuple[State, State]:
    """The state before the facts, twice: one to compare with, one to fold into."""
    tag_keys: set[TagKey] = set()
    manifest_keys: set[ManifestKey] = set()
    children: set[ManifestKey] = set()
    deleted: set[ManifestKey] = set()
    told: set[ManifestKey] = set()
    pushed_blobs: set[ManifestKey] = set()
    for repository, fact in located:
        if isinstance(fact, BlobStored):
            pushed_blobs.add((repository.id, fact.digest))
            continue
        if isinstance(fact, DigestDeleted):
            told.add((repository.id, fact.digest))
        if (key := tag_key(repository.id, fact)) is not None:
            tag_keys.add(key)
        if (named := manifest_key(repository.id, fact)) is not None:
            manifest_keys.add(named)
            content: Content | None = getattr(fact, "content", None)
            if content is not None:
                children.update((repository.id, digest) for digest in content.children)
            elif not isinstance(fact, SIGNS):
                deleted.add(named)
    counted = await store.add_blobs(connection, pushed_blobs)
    manifest_keys |= counted
    deleted |= counted
    tags = await store.load_tags(connection, tag_keys)
    tags |= await store.load_tags_on(connection, deleted)
    if late := _cut_late(tags, located):
        await store.load_repeats(connection, late)
    named_by_tags = {(key[0], tag.digest) for key, tag in tags.items() if tag.digest is not None}
    named_by_tags |= {
        (key[0], digest)
        for key, tag in tags.items()
        if tag.odd is not None
        for digest in tag.odd.digests()
    }
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
    told.update(key for key, manifest in manifests.items() if manifest.heard > NEVER)
    before = State(
        manifests,
        tags,
        blobs=await store.load_blobs(connection, told - pushed_blobs),
        unsure={
            repository.id: repository.unsure_ns
            for repository, _fact in located
            if repository.unsure_ns is not None
        },
    )
    for doubtful in told & manifests.keys():
        manifests[doubtful].blob = before.may_be_blob(doubtful)
    # The structs are shared by nobody: a shallow copy of each is enough (their members never change).
    state = State(
        {key: msgspec.structs.replace(manifest) for key, manifest in manifests.items()},
        {key: msgspec.structs.replace(tag) for key, tag in tags.items()},
        blobs=set(before.blobs),
        unsure=before.unsure,
        skew_ns=skew_ns,
    )
    return before, state


def _deleted_between(
    before: State, after: State, changed: Mapping[ManifestKey, Manifest]
) -> dict[TagKey, Tag]:
    """Tags that came to name their manifest at another moment, as a delete of it counts now or no more."""
    deleted = {
        key
        for key, manifest in changed.items()
        if (old := before.manifests.get(key)) is not None
        and (old.sure, old.heard, old.blob) != (manifest.sure, manifest.heard, manifest.blob)
    }
    if not deleted:
        return {}
    # Also those that answer no more: a row is the same in whatever order its facts came.
    return {key: tag for key, tag in after.tags.items() if (key[0], tag.digest or b"") in deleted}


def _cut_late(tags: Mapping[TagKey, Tag], located: Sequence[Located]) -> dict[TagKey, Tag]:
    """Tags whose run may end up shorter by a fact that is older than their newest set."""
    long = {key: tag for key, tag in tags.items() if tag.more}
    if not long:
        return {}
    named: dict[ManifestKey, list[TagKey]] = {}
    for key, tag in long.items():
        named.setdefault((key[0], tag.digest or b""), []).append(key)
    late: dict[TagKey, Tag] = {}
    for repository, fact in located:
        if isinstance(fact, ManifestDeleted | DigestDeleted):
            keys = named.get((repository.id, fact.digest), [])
        elif isinstance(fact, (*SIGNS, TagRemoved)) and fact.tag is not None:
            keys = [(repository.id, fact.tag)]
        else:
            continue
        for key in keys:
            if key in long and fact.stamp < long[key].set:
                late[key] = long[key]
    return late


async def _look_up(
    connection: Connection, names: list[RepositoryName]
) -> dict[RepositoryName, Repository]:
    rows = await connection.fetch(
        statements.FIND_REPOSITORIES,
        [registry for registry, _name in names],
        [name for _registry, name in names],
    )
    return {
        (row["registry"], row["name"]): Repository(
            row["id"],
            row["workspace_id"],
            # Another registry is not asked: nothing of it would ever settle.
            row["unsure_ns"] if row["registry"] == DEFAULT_REGISTRY else None,
        )
        for row in rows
    }


async def _repository_infos(
    connection: Connection, located: Sequence[Located]
) -> dict[int, RepositoryInfo]:
    """Names of the repositories, read under the locks.

    Raises RetakeError when one was mapped elsewhere, or has another number: after an older backup of the
    database was put back its number may be another repository's.
    """
    cached = {
        repository.id: (repository.workspace_id, fact.registry, fact.repository)
        for repository, fact in located
    }
    rows = {
        row["id"]: row
        for row in await connection.fetch(statements.WORKSPACES_OF_REPOSITORIES, sorted(cached))
    }
    found = {id_: (row["workspace_id"], row["registry"], row["name"]) for id_, row in rows.items()}
    if found != cached:
        raise RetakeError(
            {owner for id_, (owner, *_name) in found.items() if owner != cached[id_][0]}
        )
    return {
        id_: RepositoryInfo(row["registry"], row["name"], row["workspace_id"], row["app"])
        for id_, row in rows.items()
    }


def _unconfirmed(
    changed: Mapping[ManifestKey, Manifest],
    infos: Mapping[int, RepositoryInfo],
    changes: Mapping[int, Change],
) -> list[ManifestKey]:
    """Existing manifests with a blob, counted just now, of which storage has not spoken."""
    return [
        key
        for key, manifest in changed.items()
        if manifest.present
        and manifest.content is not None
        and manifest.content.claimed_ns < 0
        and (change := changes.get(infos[key[0]].workspace_id)) is not None
        and any(change.unconfirmed(digest) for digest, _size in manifest.content.blobs)
    ]


async def save_workspaces(
    connection: Connection,
    workspaces: dict[int, Workspace],
    now: datetime,
    *,
    found: bool = False,
) -> None:
    """Write usage and level of locked workspaces; `found`: reconciliation brought the images."""
    ordered = sorted(workspaces.values(), key=lambda workspace: workspace.id)
    await connection.execute(
        statements.SAVE_USAGE,
        [workspace.id for workspace in ordered],
        [workspace.usage_bytes for workspace in ordered],
        [workspace.level for workspace in ordered],
        [workspace.has_images for workspace in ordered],
        now,
        found,
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
