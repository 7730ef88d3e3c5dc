"""The pre-build hook: is there room, and if not, make some. A build is never stopped by our failure.

Bytes are set aside only while the figures that were decided on still hold: by a statement that does
nothing once the workspace has changed, else under the workspace's lock. So two builds that fit alone
but not together are not both told "fits".
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import msgspec

from ledger import apps, leases, names, outbox, reading, reservations, workspaces
from ledger.reading import WorkspaceView
from ledger.reservations import Reservation
from quota import unknown
from quota.builds import IncomingSource, LargestApps, Look, PreBuild, denial, look, told
from quota.cleanup import Cleaner
from quota.decision import (
    Enforcement,
    Figures,
    Verdict,
    decide,
    decide_unchecked,
    needs_cleanup,
    target_bytes,
)
from quota.metrics import QuotaMetrics
from quota.outcome import Outcome
from runtime import tracing
from runtime.lifecycle import Stopping, end
from runtime.logs import Outcomes, get_logger
from runtime.postgres import UNAVAILABLE, Connection, Pool

log = get_logger(__name__)
decisions = Outcomes("pre_build")

RESERVATION_TTL = timedelta(hours=1)
_MARGIN = 0.25
"""Share of the caller's time-out that is kept back for deciding and answering."""
_MOST_MARGIN = 2.0
"""Seconds."""
_REMEMBER_SECONDS = 10.0
_ANNOUNCE_AGAIN = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Seconds between attempts to announce what was denied while the database was away."""
_MOST_APPS = 100_000
"""Apps that are remembered as known; one more, and it begins anew."""
_NAMED = 3
"""Apps that are named when there is too little room."""


class Answer(msgspec.Struct):
    """What the build is told."""

    workspace: str
    verdict: Verdict
    figures: Figures
    usage_before: int
    incoming_source: IncomingSource
    outcome: Outcome
    reservation: Reservation | None = None
    warnings: list[str] = msgspec.field(default_factory=list)
    view: WorkspaceView | None = None
    """The workspace that was decided for, where there is one."""


class _Deadline(msgspec.Struct, frozen=True):
    """Until when what may be done, by the loop's clock, so that there is an answer in time."""

    clean_until: float
    look_until: float
    """For finding out what only the message needs."""


class PreBuildHook:
    """Answers pre-build calls; one per process."""

    def __init__(
        self,
        pool: Pool,
        cleaner: Cleaner,
        *,
        default_quota_bytes: int,
        clock: Callable[[], datetime],
        metrics: QuotaMetrics,
        statements: Pool | None = None,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        """`statements`: a pool for single statements, where most answers come from."""
        self._pool = pool
        self._statements = statements or pool
        self._cleaner = cleaner
        self._default_quota_bytes = default_quota_bytes
        self._clock = clock
        self._metrics = metrics
        self._new_id = new_id
        # The enforcement last seen, for the moment when it cannot be looked up.
        self._strict: set[str] = set()
        self._apps: set[tuple[int, str]] = set()
        self._largest: dict[int, tuple[datetime, LargestApps]] = {}
        self._checks: set[asyncio.Task[Answer]] = set()
        self._announcing: set[asyncio.Task[None]] = set()

    async def check(self, build: PreBuild) -> Answer:
        """Decide within the caller's time-out. Our own failure proceeds, unless strict."""
        started = time.perf_counter()
        answer = await self._check_in_time(build)
        seconds = time.perf_counter() - started
        self._metrics.hook_seconds.observe(seconds)
        if answer.verdict.reason == "check_failed":
            self._announce_later(build, answer)
        self._metrics.decisions.labels(answer.verdict.decision, answer.verdict.reason).inc()
        tracing.note(
            {
                "registry_quota.workspace": build.workspace,
                "registry_quota.decision": answer.verdict.decision,
                "registry_quota.reason": answer.verdict.reason,
            }
        )
        _tell(build, answer, seconds)
        return answer

    async def remember_strict(self) -> None:
        """Learn which workspaces are strict, for the moment when it cannot be looked up."""
        async with self._pool.acquire() as connection:
            self._strict = await reading.strict_workspaces(connection)

    async def keep_strict_known(self, stopping: Stopping) -> None:
        """Learn it again and again: another process may have made a workspace strict."""
        while not await stopping.sleep(_REMEMBER_SECONDS):
            try:
                await self.remember_strict()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.info("strict_workspaces_not_read", reason=type(error).__name__)

    async def _check_in_time(self, build: PreBuild) -> Answer:
        loop = asyncio.get_running_loop()
        margin = min(_MOST_MARGIN, build.timeout_s * _MARGIN)
        end = loop.time() + build.timeout_s
        deadline = _Deadline(clean_until=end - margin, look_until=end - margin * 0.6)
        # Not awaited past its time: what is cancelled may itself wait for a database that is frozen.
        task = asyncio.create_task(self._check(build, deadline))
        self._checks.add(task)
        task.add_done_callback(self._forget_check)
        await asyncio.wait([task], timeout=build.timeout_s - margin * 0.2)
        if not task.done():
            task.cancel()
            return self._unchecked(build, f"it took longer than {build.timeout_s:g} s")
        try:
            return task.result()
        except (Exception, asyncio.CancelledError) as error:
            # Whatever failed must not stop a build. A cancellation is the task's, from within: ours would
            # have ended the wait above.
            # Where the database was lost tells nothing, and writing a traceback holds up other builds.
            log.exception(
                "pre_build_check_failed",
                workspace=build.workspace,
                reason=f"{type(error).__name__}: {error}",
                exc_info=None if isinstance(error, UNAVAILABLE) else error,
            )
            return self._unchecked(build, f"{type(error).__name__} on our side, see the log")

    def _announce_later(self, build: PreBuild, answer: Answer) -> None:
        """Say behind the answer that a build was denied: what could not be checked may not be written now."""
        if answer.verdict.decision == "deny" and not build.dry_run:
            task = asyncio.create_task(self._announce_unchecked(build, answer.verdict))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

    async def _announce_unchecked(self, build: PreBuild, verdict: Verdict) -> None:
        for wait in _ANNOUNCE_AGAIN:
            try:
                async with self._pool.acquire() as connection:
                    now = await self._look_with(connection, build)
                    await self._announce_denial(connection, now, build, verdict, [])
                return
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.info("denial_not_announced", reason=type(error).__name__, retry_in=wait)
                await asyncio.sleep(wait)

    def _forget_check(self, task: "asyncio.Task[Answer]") -> None:
        self._checks.discard(task)
        if not task.cancelled():
            task.exception()  # told where it is waited for; nobody waits past the time-out

    def _unchecked(self, build: PreBuild, cause: str) -> Answer:
        enforcement: Enforcement = "strict" if build.workspace in self._strict else "advisory"
        incoming, source = told(build)
        return Answer(
            workspace=build.workspace,
            verdict=decide_unchecked(build.workspace, cause, enforcement=enforcement),
            figures=Figures(
                usage_bytes=0,
                reserved_bytes=0,
                incoming_bytes=incoming,
                quota_bytes=self._default_quota_bytes,
            ),
            usage_before=0,
            incoming_source=source,
            outcome=Outcome(done=True),
            warnings=["check_failed"],
        )

    async def _check(self, build: PreBuild, deadline: _Deadline) -> Answer:
        nothing_done = Outcome(target_reached=True, done=True)
        answer = await self._answer(build, nothing_done, None, [])
        usage_before: int | None = None
        while answer is None:
            # The trigger is reached; or a build or push filled the room since the last look.
            seen = await self._look(build)
            usage_before = seen.figures.usage_bytes if usage_before is None else usage_before
            warnings: list[str] = []
            outcome, largest = nothing_done, None
            if needs_cleanup(seen.figures, seen.policy):
                outcome = await self._make_room(build, seen, deadline.clean_until, warnings)
                largest = await self._largest_apps(build, outcome, deadline.look_until)
            answer = await self._answer(build, outcome, usage_before, warnings, largest)
        answer.warnings += await self._unknown(build, answer.view, deadline.look_until)
        return answer

    async def _unknown(
        self, build: PreBuild, view: WorkspaceView | None, until: float
    ) -> list[str]:
        """Whether workspace or app were never seen. What was seen once is not looked up again."""
        known = None if view is None or not view.visible else view
        app = None if known is None or build.app is None else (known.id, build.app)
        if known is not None and (app is None or app in self._apps):
            return []
        try:
            async with asyncio.timeout_at(until):
                # While names are compared no connection is held: the next build needs one.
                if known is None or app is None:
                    async with self._statements.acquire() as connection:
                        others = await names.workspaces_like(
                            connection, build.workspace, build.among
                        )
                    return await unknown.told_workspace(build.workspace, others)
                async with self._statements.acquire() as connection:
                    others = await names.apps_like(connection, known.id, app[1])
                warnings = await unknown.told_app(known, app[1], others)
        except (TimeoutError, *UNAVAILABLE, asyncpg.PostgresError):
            return []  # the decision stands without it
        if not warnings:
            if len(self._apps) >= _MOST_APPS:
                self._apps.clear()
            self._apps.add(app)
        return warnings

    async def _make_room(
        self, build: PreBuild, seen: Look, clean_until: float, warnings: list[str]
    ) -> Outcome:
        if seen.view is None or not seen.figures.can_ever_fit:
            return Outcome(done=True)
        outcome = await self._clean(build, seen, clean_until)
        if not outcome.done:
            warnings.append("cleanup_continues")
        warnings += await self._named(seen.view, outcome.warnings)
        return outcome

    async def _named(self, view: WorkspaceView, warnings: list[str]) -> list[str]:
        """The warnings, with the sources that have stopped reporting by name."""
        if "stale_lease" not in warnings:
            return warnings
        async with self._pool.acquire() as connection:
            known = await leases.leases_of(connection, view.id, ())
        now = self._clock()
        stale = [f"stale_lease:{lease.source}" for lease in known if lease.stale(now)]
        return [warning for warning in warnings if warning != "stale_lease" or not stale] + stale

    async def _largest_apps(self, build: PreBuild, outcome: Outcome, until: float) -> LargestApps:
        """Which apps hold most, when there is still too little room and there is time to find out."""
        try:
            async with asyncio.timeout_at(until):
                seen = await self._look(build, outcome)
                target = target_bytes(seen.figures.quota_bytes, seen.policy)
                if seen.view is None or seen.figures.total_bytes <= target:
                    return []
                known = self._largest.get(seen.view.id)
                if known is None or known[0] != seen.view.changed_at:
                    async with (
                        self._pool.acquire() as connection,
                        connection.transaction(isolation="repeatable_read", readonly=True),
                    ):
                        largest = await apps.bytes_by_app(connection, seen.view.id)
                    known = self._largest[seen.view.id] = (seen.view.changed_at, largest[:_NAMED])
                return known[1]
        except TimeoutError:
            return []  # a message without them is better than none

    async def _look(self, build: PreBuild, outcome: Outcome | None = None) -> Look:
        async with self._pool.acquire() as connection:
            return await self._look_with(connection, build, outcome)

    async def _look_with(
        self, connection: Connection, build: PreBuild, outcome: Outcome | None = None
    ) -> Look:
        """The workspace now; with a rehearsal's outcome as it would be after it."""
        seen = await look(
            connection,
            build,
            now=self._clock(),
            default_quota_bytes=self._default_quota_bytes,
            without=outcome if outcome is not None and outcome.rehearsed else None,
        )
        if seen.view is not None:
            (self._strict.add if seen.enforcement == "strict" else self._strict.discard)(
                seen.view.name
            )
        return seen

    async def _clean(self, build: PreBuild, first: Look, clean_until: float) -> Outcome:
        """One cleanup runs for a workspace; who joins it decides on fresh numbers afterwards.

        A dry run rehearses its own, and waits for somebody else's like any other call.
        """
        loop = asyncio.get_running_loop()
        incoming = first.incoming
        begin = self._cleaner.rehearse if build.dry_run else self._cleaner.start
        while True:
            task, outcome, own = begin(build.workspace, incoming, cause="pre-build")
            await asyncio.wait([task], timeout=max(0.0, clean_until - loop.time()))
            if not task.done():
                if own and build.dry_run:
                    await end([task])
                return outcome
            if own:
                return task.result()
            # Somebody else's cleanup was for their build: is there room for this one, too?
            again = await self._look(build)
            if not needs_cleanup(again.figures, again.policy):
                target = target_bytes(again.figures.quota_bytes, again.policy)
                return Outcome(target_reached=again.figures.total_bytes <= target, done=True)
            incoming = again.incoming

    async def _answer(
        self,
        build: PreBuild,
        outcome: Outcome,
        usage_before: int | None,
        warnings: list[str],
        largest: LargestApps | None = None,
    ) -> Answer | None:
        """Decide on fresh figures, and set bytes aside if these still hold when that is written.

        None when cleanup was not tried (`largest` is None) and turns out to be needed.
        """
        reservation = None
        async with self._statements.acquire() as connection:
            now = await self._look_with(connection, build, outcome)
            if largest is None and needs_cleanup(now.figures, now.policy):
                return None
            verdict = self._decide(build, now, outcome, largest)
            if build.reserves and verdict.decision == "proceed" and now.view and now.may_reserve:
                reservation = await reservations.reserve_unless_changed(
                    connection, now.view.id, self._reservation(build, now.figures), now.view.version
                )
        if reservation is None and (build.reserves or verdict.decision == "deny"):
            return await self._answer_locked(build, outcome, usage_before, warnings, largest)
        return _answer_of(build, now, verdict, outcome, usage_before, warnings, reservation)

    async def _answer_locked(
        self,
        build: PreBuild,
        outcome: Outcome,
        usage_before: int | None,
        warnings: list[str],
        largest: LargestApps | None,
    ) -> Answer | None:
        """The same under the workspace's lock: others were faster, or there is more to write."""
        reservation = None
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._pool.acquire())
            if build.reserves:
                await stack.enter_async_context(connection.transaction())
                await self._lock(connection, build.workspace)
            now = await self._look_with(connection, build, outcome)
            if largest is None and needs_cleanup(now.figures, now.policy):
                return None
            verdict = self._decide(build, now, outcome, largest)
            if verdict.decision == "deny":
                await self._announce_denial(connection, now, build, verdict, largest or [])
            elif build.reserves:
                if now.view is not None:
                    reservation = await self._reserve(connection, now.view, build, now)
                if reservation is None and now.figures.can_ever_fit:
                    warnings.append("not_reserved")
        return _answer_of(build, now, verdict, outcome, usage_before, warnings, reservation)

    @staticmethod
    def _decide(
        build: PreBuild, now: Look, outcome: Outcome, largest: LargestApps | None
    ) -> Verdict:
        return decide(
            build.workspace,
            now.figures,
            now.policy,
            enforcement=now.enforcement,
            cleanup_tried=largest is not None,
            obstacle=outcome.obstacle,
            largest_apps=largest or (),
            build_id=build.build_id,
        )

    async def _lock(self, connection: Connection, workspace: str) -> None:
        """Take the workspace's lock; one that nobody knows yet appears, unless too many have so."""
        if await workspaces.lock_workspace(connection, workspace) is None:
            await workspaces.add_workspace(connection, workspace, self._default_quota_bytes)
            await workspaces.lock_workspace(connection, workspace)

    async def _reserve(
        self, connection: Connection, view: WorkspaceView, build: PreBuild, now: Look
    ) -> Reservation | None:
        """Set aside what the build says now, in the place of what it said before.

        Nothing where more than the quota would be set aside: others would have to delete for it.
        """
        if not now.may_reserve:
            await reservations.release_build(connection, view.id, build.build_id or "")
            return None
        reservation = self._reservation(build, now.figures)
        return await reservations.reserve(connection, view.id, reservation)

    def _reservation(self, build: PreBuild, figures: Figures) -> Reservation:
        now = self._clock()
        return Reservation(
            id=self._new_id(),
            build_id=build.build_id or "",
            app=build.app,
            bytes=figures.incoming_bytes,
            created_at=now,
            expires_at=now + RESERVATION_TTL,
        )

    async def _announce_denial(
        self,
        connection: Connection,
        now: Look,
        build: PreBuild,
        verdict: Verdict,
        largest: LargestApps,
    ) -> None:
        if now.view is None or build.dry_run:
            return
        event = denial(now.view, build, now.figures, verdict, largest)
        async with connection.transaction():
            # Events of a workspace are written in order, under its lock.
            await workspaces.lock_workspace(connection, build.workspace)
            if build.build_id is not None:
                await reservations.release_build(connection, now.view.id, build.build_id)
            await outbox.add_events(connection, [event], now=self._clock(), new_id=self._new_id)


def _answer_of(
    build: PreBuild,
    now: Look,
    verdict: Verdict,
    outcome: Outcome,
    usage_before: int | None,
    warnings: list[str],
    reservation: Reservation | None,
) -> Answer:
    if now.source == "none":
        warnings.append("incoming_unknown")
    return Answer(
        workspace=build.workspace,
        verdict=verdict,
        figures=now.figures,
        usage_before=now.figures.usage_bytes if usage_before is None else usage_before,
        incoming_source=now.source,
        outcome=outcome,
        reservation=reservation,
        warnings=warnings,
        view=now.view,
    )


def _tell(build: PreBuild, answer: Answer, seconds: float) -> None:
    """The log's line about a decision."""
    verdict, figures, outcome = answer.verdict, answer.figures, answer.outcome
    unusual = verdict.decision == "deny" or verdict.reason == "check_failed"
    line = {
        "workspace": build.workspace,
        "app": build.app,
        "build_id": build.build_id,
        "decision": verdict.decision,
        "reason": verdict.reason,
        "usage_bytes": figures.usage_bytes,
        "reserved_bytes": figures.reserved_bytes,
        "incoming_bytes": figures.incoming_bytes,
        "quota_bytes": figures.quota_bytes,
        "run": None if outcome.run_id is None else str(outcome.run_id),
        "deleted": len(outcome.images),
        "freed_bytes": outcome.freed_bytes,
        "dry_run": build.dry_run,
        "seconds": round(seconds, 3),
    }
    decisions.write([line], level="warning" if unusual else "info")
