"""Gives a repository to another workspace and app: what it stores moves in one transaction.

Cost grows with the manifests of the repository, not with what the workspaces hold. A Recorder that
still knows the old place reads the repository again under its locks and begins anew.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID, uuid4

import msgspec

from ledger import account, history, outbox, runs, statements
from ledger.account import RetakeError
from ledger.counting import Change, contribution
from ledger.facts import Content
from ledger.fold import Manifest
from ledger.packing import unpack_blobs
from ledger.record import (
    LevelRule,
    Recorded,
    RepositoryName,
    Within,
    Workspace,
    level_event,
    save_workspaces,
)
from registry.workspaces import Placement, WorkspaceRule
from runtime.postgres import Connection, Pool, retry_conflicts

_PREFETCH = 500

FIND = """
SELECT r.id, r.workspace_id, w.name AS workspace, r.app
FROM repositories r JOIN workspaces w ON w.id = r.workspace_id
WHERE r.registry = $1 AND r.name = $2
"""

FIND_WORKSPACE = "SELECT id FROM workspaces WHERE name = $1"

PRESENT = "SELECT digest, size, blobs FROM manifests WHERE repository_id = $1 AND present"

MAP = "UPDATE repositories SET workspace_id = $2, app = $3, mapped = $4 WHERE id = $1"

OF_OTHERS = """
SELECT EXISTS (
  SELECT FROM unnest($2::text[], $3::text[]) AS named(registry, name)
  JOIN repositories r USING (registry, name) JOIN workspaces w ON w.id = r.workspace_id
  WHERE w.name <> $1)
"""

HAS_MANIFESTS = """
SELECT EXISTS (SELECT FROM manifests WHERE repository_id = $1 AND (push_ns >= 0 OR seen_ns >= 0))
"""


class CleanupRunningError(Exception):
    """A cleanup of one of the workspaces is running; wait for its end and map then."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class MovedMeanwhileError(Exception):
    """Somebody else mapped this repository at the same moment; look where it is now and try again."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


def while_of(workspace: str, repositories: Iterable[RepositoryName]) -> Within:
    """For `Recorder.record`: only as long as these repositories count for a workspace.

    Whoever was allowed to say something of them was so in that workspace. Raises MovedMeanwhileError
    under the locks that a mapping takes, too: nothing is recorded then.
    """
    named = sorted(set(repositories))

    async def check(connection: Connection, _recorded: Recorded) -> None:
        registries, names = [item[0] for item in named], [item[1] for item in named]
        if await connection.fetchval(OF_OTHERS, workspace, registries, names):
            raise MovedMeanwhileError

    return check


class Mapped(msgspec.Struct, frozen=True):
    """What a mapping did."""

    registry: str
    repository: str
    workspace: str
    app: str
    previous_workspace: str
    previous_app: str
    moved_manifests: int
    usage_bytes: int
    """Of the workspace that has the repository now."""
    previous_usage_bytes: int
    """Of the workspace that had it."""


class Mapper:
    """Maps repositories by hand, against the pattern."""

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

    async def placement(self, registry: str, repository: str) -> Placement:
        """Where a repository counts now; of an unknown one: where the pattern would put it."""
        async with self._pool.acquire() as connection:
            row = await connection.fetchrow(FIND, registry, repository)
        if row is None:
            return self._rule.split(repository)
        return Placement(row["workspace"], row["app"])

    async def map(
        self,
        registry: str,
        repository: str,
        to: Placement,
        *,
        now: datetime,
        only_from: str | None = None,
    ) -> Mapped:
        """Move a repository, known or not, with everything that it stores. May be repeated.

        `only_from` names the workspace from which the caller may take it. Raises
        CleanupRunningError while a cleanup of either workspace runs, MovedMeanwhileError when it is
        in another workspace than `only_from` says.
        """
        before = self._rule.split(repository)

        async def attempt() -> Mapped:
            async with self._pool.acquire() as connection:
                # Committed on their own, as for a push: both are invisible while they are empty.
                await connection.execute(
                    statements.ADD_WORKSPACES,
                    sorted({before.workspace, to.workspace}),
                    self._default_quota_bytes,
                    False,  # noqa: FBT003 - not found by reconciliation
                )
                await connection.execute(
                    statements.ADD_REPOSITORIES,
                    [registry],
                    [repository],
                    [before.workspace],
                    [before.app],
                    False,  # noqa: FBT003 - nor the repository
                )
                async with connection.transaction():
                    return await self._move(connection, registry, repository, to, now, only_from)

        while True:
            try:
                return await retry_conflicts(attempt)
            except RetakeError:
                continue  # somebody mapped it elsewhere at the same moment

    async def _move(
        self,
        connection: Connection,
        registry: str,
        repository: str,
        to: Placement,
        now: datetime,
        only_from: str | None,
    ) -> Mapped:
        target = await connection.fetchval(FIND_WORKSPACE, to.workspace)
        found = await connection.fetchrow(FIND, registry, repository)
        rows = await connection.fetch(
            statements.LOCK_WORKSPACES, sorted({target, found["workspace_id"]})
        )
        locked = {row["id"]: Workspace(*row.values()) for row in rows}
        # Whoever maps a repository holds its workspace's lock: from here on it stays.
        row = await connection.fetchrow(FIND, registry, repository)
        if row["workspace_id"] not in locked:
            raise RetakeError({row["workspace_id"]})
        if only_from is not None and row["workspace"] != only_from:
            raise MovedMeanwhileError
        source = locked[row["workspace_id"]]
        moved = 0
        # Where the pattern has it anyway nobody's hand is needed to keep it.
        by_hand = to != self._rule.split(repository)
        await connection.execute(MAP, row["id"], target, to.app, by_hand)
        if source.id != target:
            for workspace_id in locked:
                if await runs.running(connection, workspace_id) is not None:
                    raise CleanupRunningError
            moved = await self._move_bytes(connection, row["id"], source, locked[target], now)
        return Mapped(
            registry,
            repository,
            to.workspace,
            to.app,
            row["workspace"],
            row["app"],
            moved,
            locked[target].usage_bytes,
            source.usage_bytes,
        )

    async def _move_bytes(
        self,
        connection: Connection,
        repository_id: int,
        source: Workspace,
        target: Workspace,
        now: datetime,
    ) -> int:
        """Move reference counts, usage and levels; returns how many manifests there were."""
        gone, come = Change(), Change()
        moved = 0
        async for row in connection.cursor(PRESENT, repository_id, prefetch=_PREFETCH):
            content = Content(blobs=unpack_blobs(row["blobs"] or b""))
            members = contribution(row["digest"], Manifest(size=row["size"], content=content))
            gone.remove(row["digest"], members)
            come.add(row["digest"], members)
            moved += 1
        both = {source.id: source, target.id: target}
        events = await account.move(
            connection, both, {source.id: gone, target.id: come}, stored={}, now=now
        )
        if await connection.fetchval(HAS_MANIFESTS, repository_id):
            target.has_images = True
        for workspace in (source, target):
            level = self._level_of(workspace.level, workspace.usage_bytes, workspace.quota_bytes)
            if level != workspace.level:
                events.append(level_event(workspace, level))
                workspace.level = level
        await save_workspaces(connection, both, now)
        await history.sample(connection, both.values(), now)
        await outbox.add_events(connection, events, now=now, new_id=self._new_id)
        return moved
