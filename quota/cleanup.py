"""Cleanup: plan, check against the registry, delete, forget. Deleting fails closed, always.

Every plan is complete before anything is deleted; the run and its items are recorded before the
first request; each manifest's bytes are kept before its DELETE; the ledger forgets it in the same
transaction that writes the audit. One run at a time per workspace.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import msgspec

from ledger import outbox, reading, runs, workspaces
from ledger.facts import ManifestDeleted
from ledger.outbox import QuotaEvent
from ledger.record import Recorded, Recorder
from ledger.runs import AlreadyRunningError, Item, Run
from quota import recheck
from quota.decision import target_bytes
from quota.metrics import QuotaMetrics
from quota.plan import ManifestKey, Plan
from quota.planner import make_plan
from quota.snapshot import Incoming, Snapshot, plan_input, take_snapshot
from registry.client import RegistryClient
from registry.errors import DeletesDisabled, NotFound, RegistryDenied, RegistryError
from registry.names import format_digest
from runtime.logs import get_logger
from runtime.postgres import Connection, Pool
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

STALE_AFTER = timedelta(seconds=60)
"""A run without a heartbeat for this long is given up, and another may begin."""
_MOST_ROUNDS = 6
_DATE_SECONDS = 1.0
_MOST_READINGS = 3
"""How often what is unknown is fetched before planning again: an index may be of indexes."""


class Deleted(msgspec.Struct, frozen=True):
    """An image that is gone, and what that freed in bytes."""

    repository: str
    app: str
    digest: str
    tags: tuple[str, ...]
    freed_bytes: int
    why: str


class Failed(msgspec.Struct, frozen=True):
    """An image that was to go and did not."""

    repository: str
    digest: str
    reason: str


class Outcome(msgspec.Struct):
    """What a cleanup did so far; complete when `done`."""

    run_id: UUID | None = None
    images: list[Deleted] = msgspec.field(default_factory=list)
    failed: list[Failed] = msgspec.field(default_factory=list)
    target_reached: bool = True
    warnings: list[str] = msgspec.field(default_factory=list)
    obstacle: str | None = None
    """Why the target was not reached, in words."""
    stopped: bool = False
    """Whether something that a person has to mend kept it from going on."""
    done: bool = False

    @property
    def freed_bytes(self) -> int:
        """Bytes that the account fell by."""
        return sum(image.freed_bytes for image in self.images)


class _Stop(Exception):  # noqa: N818 - ends a run, for a reason that a person has to mend
    """Nothing more can be deleted; the message says why, `warning` names it for programs."""

    def __init__(self, warning: str, message: str) -> None:
        super().__init__(message)
        self.warning = warning


class Cleaner:
    """Runs cleanups; one per process."""

    def __init__(
        self,
        *,
        pool: Pool,
        recorder: Recorder,
        client: RegistryClient,
        clock: Callable[[], datetime],
        owner: str,
        metrics: QuotaMetrics,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._client = client
        self._clock = clock
        self._owner = owner
        self._metrics = metrics
        self._new_id = new_id
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._outcomes: dict[str, Outcome] = {}

    def start(
        self, workspace: str, incoming: Incoming, *, cause: str
    ) -> tuple["asyncio.Task[Outcome]", Outcome, bool]:
        """Begin a cleanup, or join the one that this process already runs for the workspace.

        Returns the task, its outcome so far (it grows), and whether it was begun by this call. The
        task goes on when its caller stops waiting.
        """
        task = self._running.get(workspace)
        if task is not None and not task.done():
            return task, self._outcomes[workspace], False
        outcome = Outcome()
        task = asyncio.create_task(self._clean(workspace, incoming, cause, outcome))
        self._running[workspace] = task
        self._outcomes[workspace] = outcome
        task.add_done_callback(lambda _task: self._forget(workspace, task))
        return task, outcome, True

    def _forget(self, workspace: str, task: "asyncio.Task[Outcome]") -> None:
        if self._running.get(workspace) is task:
            del self._running[workspace], self._outcomes[workspace]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("cleanup_failed", workspace=workspace, reason=repr(error))

    async def finish(self, seconds: float) -> None:
        """Wait for what is running (at shutdown), then cancel it: a crash is as safe."""
        tasks = list(self._running.values())
        if tasks:
            _done, pending = await asyncio.wait(tasks, timeout=seconds)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def plan(self, workspace: str, incoming: Incoming) -> tuple[Snapshot, Plan] | None:
        """What a cleanup would do now; None for a workspace that is not known."""
        try:
            return await _Job(self, workspace, incoming, "plan", Outcome()).plan()
        except LookupError:
            return None

    async def _clean(
        self, workspace: str, incoming: Incoming, cause: str, outcome: Outcome
    ) -> Outcome:
        job = _Job(self, workspace, incoming, cause, outcome)
        try:
            await job.run()
        finally:
            outcome.done = True
            self._metrics.freed_bytes.inc(outcome.freed_bytes)
            self._metrics.images.labels("deleted").inc(len(outcome.images))
            self._metrics.images.labels("failed").inc(len(outcome.failed))
        return outcome


class _Job:
    """One cleanup of one workspace."""

    def __init__(
        self, cleaner: Cleaner, workspace: str, incoming: Incoming, cause: str, outcome: Outcome
    ) -> None:
        # One class in two parts: the cleaner starts jobs, a job does the work with its clients.
        self._pool = cleaner._pool  # noqa: SLF001
        self._recorder = cleaner._recorder  # noqa: SLF001
        self._client = cleaner._client  # noqa: SLF001
        self._clock = cleaner._clock  # noqa: SLF001
        self._owner = cleaner._owner  # noqa: SLF001
        self._new_id = cleaner._new_id  # noqa: SLF001
        self._workspace = workspace
        self._incoming = incoming
        self._cause = cause
        self._outcome = outcome
        self._position = 0
        self._given_up: set[ManifestKey] = set()
        self._checked: set[str] = set()
        self._read: set[ManifestKey] = set()

    async def run(self) -> None:
        """Plan, check, delete, until the target is reached or nothing more may go."""
        stopped: _Stop | None = None
        try:
            await self._rounds()
        except _Stop as stop:
            stopped = stop
            self._outcome.warnings.append(stop.warning)
            self._outcome.stopped = True
            log.warning("cleanup_stopped", workspace=self._workspace, reason=str(stop))
        snapshot, plan = await self.plan()
        target = target_bytes(snapshot.workspace.quota_bytes, snapshot.policy)
        self._outcome.target_reached = snapshot.projected_bytes <= target
        obstacle = str(stopped) if stopped is not None else plan.why_not
        self._outcome.obstacle = None if self._outcome.target_reached else obstacle
        await self._close(snapshot, target, stopped)

    async def _rounds(self) -> None:
        for _round in range(_MOST_ROUNDS):
            snapshot, plan = await self.plan()
            self._outcome.warnings += [block.code for block in plan.warnings]
            if plan.blocks:
                raise _Stop(plan.blocks[0].code, plan.blocks[0].sentence)
            if not plan.units:
                return
            if not await self._registry_differs(snapshot, plan):
                await self._carry_out(snapshot, plan)
        raise _Stop("still_changing", "the registry kept changing while it was being cleaned")

    async def plan(self) -> tuple[Snapshot, Plan]:
        """What would go now. Raises LookupError for a workspace that is not known."""
        snapshot, plan = await self._plan_once()
        for _round in range(_MOST_READINGS):
            if not await self._read_unresolved(snapshot, plan):
                break
            snapshot, plan = await self._plan_once()
        return snapshot, plan

    async def _plan_once(self) -> tuple[Snapshot, Plan]:
        async with self._pool.acquire() as connection:
            snapshot = await take_snapshot(
                connection, self._workspace, self._incoming, now=self._clock()
            )
        if snapshot is None:
            raise LookupError(f"workspace {self._workspace} is not known")
        given = plan_input(snapshot, frozenset(self._given_up))
        return snapshot, await asyncio.to_thread(make_plan, given)

    async def _read_unresolved(self, snapshot: Snapshot, plan: Plan) -> bool:
        """Fetch manifests that stay only because too little is known of them: size, subject, children."""
        views = snapshot.by_key()
        unknown = [
            views[manifest.key]
            for manifest in plan.unresolved
            if manifest.registry == DEFAULT_REGISTRY and manifest.key not in self._read
        ]
        self._read.update(manifest.key for manifest in plan.unresolved)
        facts = await recheck.read_manifests(self._client, unknown)
        if facts:
            await self._recorder.record(facts, now=self._clock(), source="cleanup")
        return bool(facts)

    async def _registry_differs(self, snapshot: Snapshot, plan: Plan) -> bool:
        """Ask the registry about tags that the plan rests on; True when the ledger was corrected."""
        repositories = sorted(
            {step.repository for step in plan.steps if step.registry == DEFAULT_REGISTRY}
            - self._checked
        )
        corrected = False
        for repository in repositories:
            try:
                facts = await recheck.differences(
                    self._client, snapshot, repository, new_id=self._new_id
                )
            except (RegistryDenied, DeletesDisabled) as error:
                raise _Stop("registry_denied", str(error)) from error
            except RegistryError as error:
                raise _Stop(
                    "registry_unavailable", f"{repository} could not be checked: {error}"
                ) from error
            if facts:
                await self._recorder.record(facts, now=self._clock(), source="cleanup")
                corrected = True
            else:
                self._checked.add(repository)
        if corrected:
            # The registry's Date has whole seconds: what it says in the second of an event cannot
            # overrule that event. It is asked again, until ledger and registry agree.
            await asyncio.sleep(_DATE_SECONDS)
        return corrected

    async def _carry_out(self, snapshot: Snapshot, plan: Plan) -> None:
        units = self._items(snapshot, plan)
        await self._begin(snapshot, plan, [item for unit in units for item in unit])
        for unit in units:
            # Children after their index, referrers after their subject: where one stays, all stay.
            for position, item in enumerate(unit):
                if not await self._delete(snapshot, item):
                    for rest in unit[position + 1 :]:
                        await self._finish_item(
                            rest, "skipped", "what it belongs to was not deleted"
                        )
                    break

    def _items(self, snapshot: Snapshot, plan: Plan) -> list[list[Item]]:
        """The plan's units as audit rows, in order."""
        views = snapshot.by_key()
        decisions = {decision.manifest.key: decision for decision in plan.decisions}
        units = []
        for unit in plan.units:
            items = []
            for manifest in unit.members:
                view, decision = views[manifest.key], decisions[manifest.key]
                self._position += 1
                items.append(
                    Item(
                        position=self._position,
                        repository_id=view.repository_id,
                        registry=view.registry,
                        repository=view.repository,
                        digest=view.digest,
                        app=view.app,
                        tags=view.tags,
                        code=decision.why,
                        why=decision.sentence,
                        promised_bytes=decision.freed_bytes,
                        push_ns=view.known_ns,
                        media_type=view.media_type,
                    )
                )
            units.append(items)
        return units

    async def _begin(self, snapshot: Snapshot, plan: Plan, items: Sequence[Item]) -> None:
        """Record the run (once) and what it is going to delete, before the first request."""
        run_id = self._outcome.run_id or self._new_id()
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                if self._outcome.run_id is None:
                    await runs.begin_run(
                        connection,
                        Run(
                            id=run_id,
                            workspace_id=snapshot.workspace.id,
                            cause=self._cause,
                            owner=self._owner,
                            quota_bytes=snapshot.workspace.quota_bytes,
                            usage_before=snapshot.workspace.usage_bytes,
                            promised_bytes=plan.freed_bytes,
                        ),
                        now=self._clock(),
                        stale_after=STALE_AFTER,
                    )
                await runs.add_items(connection, run_id, items)
        except AlreadyRunningError as error:
            raise _Stop("cleanup_running", "another process is cleaning this workspace") from error
        self._outcome.run_id = run_id

    async def _delete(self, snapshot: Snapshot, item: Item) -> bool:
        """One manifest: keep its bytes, DELETE it, forget it. False when it stays."""
        run_id = self._outcome.run_id
        if run_id is None:  # pragma: no cover - _begin sets it
            raise AssertionError
        skip = await self._must_skip(run_id, item)
        if skip is not None:
            self._given_up.add(item.key)
            await self._finish_item(item, "skipped", skip)
            return False
        try:
            await self._keep_document(run_id, item)
            await self._client.delete_manifest(item.repository, item.digest)
        except (DeletesDisabled, RegistryDenied) as error:
            await self._finish_item(item, "failed", str(error))
            code = "deletes_disabled" if isinstance(error, DeletesDisabled) else "registry_denied"
            raise _Stop(code, str(error)) from error
        except RegistryError as error:
            self._given_up.add(item.key)
            self._outcome.failed.append(
                Failed(item.repository, format_digest(item.digest), str(error))
            )
            await self._finish_item(item, "failed", str(error))
            return False
        await self._forget(snapshot, run_id, item)
        return True

    async def _must_skip(self, run_id: UUID, item: Item) -> str | None:
        """A reason not to delete after all: what the plan stood on has changed."""
        if item.registry != DEFAULT_REGISTRY:
            return f"registry {item.registry} is not the one that can be cleaned"
        async with self._pool.acquire() as connection:
            if not await runs.heartbeat(connection, run_id, self._clock()):
                raise _Stop("run_taken_over", "the run was given up by another process")
            newest = await reading.newest_sign(connection, item.repository_id, item.digest)
            needed = await reading.needed_by_an_index(connection, item.repository_id, item.digest)
        if newest is None:
            return "it is gone already"
        if newest != item.push_ns:
            return "it was pushed again after the plan was made"
        if needed:
            return "an index needs it that was pushed after the plan was made"
        return None

    async def _keep_document(self, run_id: UUID, item: Item) -> None:
        try:
            fetched = await self._client.get_manifest(item.repository, item.digest)
        except NotFound:
            return  # gone already: there is nothing to restore, and DELETE will say the same
        async with self._pool.acquire() as connection:
            await runs.keep_document(
                connection, run_id, item.position, fetched.body, fetched.media_type
            )

    async def _forget(self, snapshot: Snapshot, run_id: UUID, item: Item) -> None:
        """Ledger, audit and events in one transaction."""
        # Just after the newest push that we knew: a push that we had not seen revives the manifest,
        # and the registry's own delete event raises the stamp to its true time.
        fact = ManifestDeleted(
            DEFAULT_REGISTRY, item.repository, item.digest, (item.push_ns + 1, b"")
        )
        workspace_id = snapshot.workspace.id
        now = self._clock()

        def freed(recorded: Recorded) -> int:
            # The registry's own delete event may be faster than we are: then the account has fallen
            # already, by what the plan had said.
            if (item.repository_id, item.digest) not in recorded.gone:
                return item.promised_bytes
            return recorded.freed(workspace_id)

        async def audit(connection: Connection, recorded: Recorded) -> None:
            await runs.finish_item(
                connection,
                run_id,
                item.position,
                state="deleted",
                freed_bytes=freed(recorded),
                now=now,
            )

        recorded = await self._recorder.record([fact], now=now, source="cleanup", within=audit)
        self._outcome.images.append(
            Deleted(
                repository=item.repository,
                app=item.app,
                digest=format_digest(item.digest),
                tags=item.tags,
                freed_bytes=freed(recorded),
                why=item.why,
            )
        )

    async def _finish_item(self, item: Item, state: str, reason: str) -> None:
        if self._outcome.run_id is None:
            return
        async with self._pool.acquire() as connection:
            await runs.finish_item(
                connection,
                self._outcome.run_id,
                item.position,
                state=state,
                failure=reason,
                now=self._clock(),
            )

    async def _close(self, snapshot: Snapshot, target: int, stopped: _Stop | None) -> None:
        """Close the run and announce how it went."""
        now = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            await workspaces.lock_workspace(connection, self._workspace)
            if self._outcome.run_id is not None:
                await runs.finish_run(
                    connection,
                    self._outcome.run_id,
                    state="finished" if stopped is None else "stopped",
                    freed_bytes=self._outcome.freed_bytes,
                    usage_after=snapshot.workspace.usage_bytes,
                    message=None if stopped is None else str(stopped),
                    now=now,
                )
            await outbox.add_events(
                connection, self._events(snapshot, target), now=now, new_id=self._new_id
            )

    def _events(self, snapshot: Snapshot, target: int) -> list[QuotaEvent]:
        workspace = snapshot.workspace
        common = {
            "run_id": str(self._outcome.run_id) if self._outcome.run_id else None,
            "cause": self._cause,
            "usage_bytes": workspace.usage_bytes,
            "quota_bytes": workspace.quota_bytes,
            "target_bytes": target,
            "target_reached": self._outcome.target_reached,
            "freed_bytes": self._outcome.freed_bytes,
        }
        events = []
        if self._outcome.run_id is not None:
            images = [
                {
                    "repository": image.repository,
                    "app": image.app,
                    "digest": image.digest,
                    "tags": image.tags,
                    "freed_bytes": image.freed_bytes,
                    "why": image.why,
                }
                for image in self._outcome.images
            ]
            failed = [
                {"repository": item.repository, "digest": item.digest, "reason": item.reason}
                for item in self._outcome.failed
            ]
            events.append(
                QuotaEvent(
                    workspace.id,
                    workspace.name,
                    outbox.CLEANUP_FINISHED,
                    {**common, "images": images, "failed": failed},
                )
            )
        if not self._outcome.target_reached:
            events.append(
                QuotaEvent(
                    workspace.id,
                    workspace.name,
                    outbox.CLEANUP_INSUFFICIENT,
                    {**common, "reason": self._outcome.obstacle},
                )
            )
        return events
