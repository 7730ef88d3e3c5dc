"""Cleanups of this process: started, joined, taken over, carried out from a stored plan.

Every plan is complete before anything is deleted; the run and its items are recorded before the
first request; each manifest's bytes are kept before its DELETE; the ledger forgets it in the same
transaction that writes the audit. One run at a time per workspace, whichever process it is in.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID, uuid4

from ledger import reading, runs
from ledger.record import Recorder
from ledger.runs import AlreadyRunningError
from quota.cleaning import STALE_AFTER, Job, finish_taken_over
from quota.deleting import Tools
from quota.metrics import QuotaMetrics
from quota.outcome import Outcome, PlanChangedError, StopError
from quota.plan import Plan
from quota.snapshot import Incoming, Snapshot
from quota.stored import Steps
from registry.client import RegistryClient
from runtime.lifecycle import STOP_DEADLINE, end
from runtime.logs import get_logger
from runtime.postgres import Pool

log = get_logger(__name__)

CleanupTask = asyncio.Task[Outcome]

PLANS_AT_ONCE: Final = 4
"""Plans that are made at a time for those who only ask: each holds all of its workspace in memory."""


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
        pull_through: bool | None = None,
    ) -> None:
        """`pull_through`: whether the registry is a pull-through cache; None: it is asked."""
        self.tools: Final = Tools(pool, recorder, client, clock, owner, new_id, pull_through)
        self._metrics = metrics
        self._running: dict[str, CleanupTask] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._planning = asyncio.Semaphore(PLANS_AT_ONCE)

    def start(
        self, workspace: str, incoming: Incoming, *, cause: str
    ) -> tuple[CleanupTask, Outcome, bool]:
        """Begin a cleanup, or join the one that this process already runs for the workspace.

        Returns the task, its outcome so far (it grows), and whether it was begun by this call. The
        task goes on when its caller stops waiting.
        """
        running = self._running.get(workspace)
        if running is not None:
            return running, self._outcomes[workspace], False
        outcome = Outcome()
        job = Job(self.tools, workspace, incoming, cause, outcome)
        return self._begin(workspace, job.run, outcome), outcome, True

    def rehearse(
        self, workspace: str, incoming: Incoming, *, cause: str
    ) -> tuple[CleanupTask, Outcome, bool]:
        """As `start`, and nothing is deleted: what a cleanup would do. Cancel it when you stop waiting.

        One that this process already runs is joined all the same: that is what `start` would do.
        """
        running = self._running.get(workspace)
        if running is not None:
            return running, self._outcomes[workspace], False
        outcome = Outcome()
        job = Job(self.tools, workspace, incoming, cause, outcome)

        async def rehearsal() -> Outcome:
            async with self._planning:
                await job.rehearse()
            return outcome

        return asyncio.create_task(rehearsal()), outcome, True

    async def apply(
        self,
        workspace: str,
        incoming: Incoming,
        plan_id: UUID,
        steps: Steps,
        *,
        cause: str,
        wait_s: float,
    ) -> tuple[CleanupTask, Outcome]:
        """Begin to carry out a stored plan, once what this process does there already has ended.

        Raises AlreadyRunningError when that takes longer than `wait_s`. The task raises
        PlanChangedError when it does not hold any more; nothing was deleted then.
        """
        end = asyncio.get_running_loop().time() + wait_s
        while (running := self._running.get(workspace)) is not None:
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                raise AlreadyRunningError
            await asyncio.wait([running], timeout=left)
        outcome = Outcome()
        job = Job(self.tools, workspace, incoming, cause, outcome)
        return self._begin(workspace, partial(job.apply, plan_id, steps), outcome), outcome

    async def take_over_stale(self) -> list[CleanupTask]:
        """Go on with every run whose process gave no sign of life; returns what was begun."""
        tools = self.tools
        async with tools.pool.acquire() as connection:
            names = await runs.stale_workspaces(
                connection, now=tools.clock(), stale_after=STALE_AFTER
            )
        tasks = []
        for workspace in names:
            if workspace not in self._running:
                outcome = Outcome()
                going_on = partial(self._go_on, workspace, outcome)
                tasks.append(self._begin(workspace, going_on, outcome))
        return tasks

    async def _go_on(self, workspace: str, outcome: Outcome) -> None:
        tools = self.tools
        async with tools.pool.acquire() as connection:
            view = await reading.find_workspace(connection, workspace, now=tools.clock())
            if view is None:  # pragma: no cover - it has a run, and workspaces are never deleted
                return
            taken = await runs.take_over(
                connection, view.id, owner=tools.owner, now=tools.clock(), stale_after=STALE_AFTER
            )
        if taken is None:
            return  # somebody else was faster
        try:
            await finish_taken_over(tools, workspace, taken, outcome)
        except StopError as stop:  # it stays open, and is tried again
            log.warning("cleanup_still_open", workspace=workspace, reason=str(stop))

    def _begin(
        self, workspace: str, work: Callable[[], Awaitable[None]], outcome: Outcome
    ) -> CleanupTask:
        task = asyncio.create_task(self._counted(work, outcome))
        self._running[workspace] = task
        self._outcomes[workspace] = outcome
        task.add_done_callback(lambda _task: self._ended(workspace, task))
        return task

    async def _counted(self, work: Callable[[], Awaitable[None]], outcome: Outcome) -> Outcome:
        try:
            await work()
        finally:
            outcome.done = True
            self._metrics.freed_bytes.inc(outcome.freed_bytes)
            self._metrics.images.labels("deleted").inc(len(outcome.images))
            self._metrics.images.labels("failed").inc(len(outcome.failed))
        return outcome

    def _ended(self, workspace: str, task: CleanupTask) -> None:
        if self._running.get(workspace) is task:
            del self._running[workspace], self._outcomes[workspace]
        if task.cancelled() or isinstance(error := task.exception(), PlanChangedError):
            return
        if error is not None:
            log.error("cleanup_failed", workspace=workspace, reason=repr(error))

    async def finish(self, seconds: float) -> None:
        """Wait for what is running (at shutdown), then cancel it: a crash is as safe."""
        tasks = list(self._running.values())
        if tasks:
            _done, pending = await asyncio.wait(tasks, timeout=seconds)
            await end(pending, putting_away=STOP_DEADLINE)

    async def plan_asked(
        self, workspace: str, incoming: Incoming, *, seconds: float
    ) -> tuple[Snapshot, Plan, list[str]] | None:
        """As `plan`, after asking the registry for so long; with warnings. None: not known."""
        outcome = Outcome()
        try:
            job = Job(self.tools, workspace, incoming, "plan", outcome)
            async with self._planning:
                snapshot, plan = await job.plan_asked(seconds)
        except LookupError:
            return None
        return snapshot, plan, outcome.warnings

    async def plan(self, workspace: str, incoming: Incoming) -> tuple[Snapshot, Plan] | None:
        """What a cleanup would do now; None for a workspace that is not known."""
        try:
            async with self._planning:
                return await Job(self.tools, workspace, incoming, "plan", Outcome()).plan()
        except LookupError:
            return None
