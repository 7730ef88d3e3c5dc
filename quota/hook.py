"""The pre-build hook: is there room, and if not, make some. A build is never stopped by our failure.

The answer's figures are read under the workspace's lock together with the reservation, so that two
builds that fit alone but not together are not both told "fits".
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, cast
from uuid import UUID, uuid4

import msgspec

from ledger import outbox, reading, workspaces
from ledger.outbox import QuotaEvent
from ledger.reading import WorkspaceView
from ledger.workspaces import Reservation
from quota.cleanup import Cleaner, Outcome
from quota.decision import (
    Enforcement,
    Figures,
    Verdict,
    decide,
    decide_unchecked,
    needs_cleanup,
)
from quota.incoming import incoming_from_layers
from quota.metrics import QuotaMetrics
from quota.policy import DEFAULT_POLICY, Policy, parse_policy
from quota.snapshot import Incoming
from runtime.logs import get_logger
from runtime.postgres import Connection, Pool

log = get_logger(__name__)

RESERVATION_TTL = timedelta(hours=1)
_MARGIN = 0.25
"""Share of the caller's time-out that is kept back for deciding and answering."""
_MOST_MARGIN = 2.0
"""Seconds."""

IncomingSource = Literal["layers", "request", "none"]


class PreBuild(msgspec.Struct, frozen=True):
    """A build that is about to start. Bytes and seconds."""

    workspace: str
    app: str | None = None
    build_id: str | None = None
    incoming_bytes: int | None = None
    layers: tuple[tuple[bytes, int], ...] | None = None
    """(digest, size)"""
    dry_run: bool = False
    timeout_s: float = 60.0


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


class _Reading(msgspec.Struct, frozen=True):
    """One look at the workspace."""

    view: WorkspaceView | None
    policy: Policy
    figures: Figures
    incoming: Incoming
    source: IncomingSource

    @property
    def enforcement(self) -> Enforcement:
        return "advisory" if self.view is None else cast("Enforcement", self.view.enforcement)


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
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._cleaner = cleaner
        self._default_quota_bytes = default_quota_bytes
        self._clock = clock
        self._metrics = metrics
        self._new_id = new_id
        # The enforcement last seen, for the moment when it cannot be looked up.
        self._strict: set[str] = set()
        self._checks: set[asyncio.Task[Answer]] = set()

    async def check(self, build: PreBuild) -> Answer:
        """Decide within the caller's time-out. Our own failure proceeds, unless strict."""
        with self._metrics.hook_seconds.time():
            answer = await self._check_in_time(build)
        self._metrics.decisions.labels(answer.verdict.decision, answer.verdict.reason).inc()
        return answer

    async def remember_strict(self) -> None:
        """Learn which workspaces are strict, for the moment when it cannot be looked up."""
        async with self._pool.acquire() as connection:
            self._strict = await reading.strict_workspaces(connection)

    async def _check_in_time(self, build: PreBuild) -> Answer:
        loop = asyncio.get_running_loop()
        margin = min(_MOST_MARGIN, build.timeout_s * _MARGIN)
        clean_until = loop.time() + build.timeout_s - margin
        # Not awaited past its time: what is cancelled may itself wait for a database that is frozen.
        task = asyncio.create_task(self._check(build, clean_until))
        self._checks.add(task)
        task.add_done_callback(self._forget_check)
        await asyncio.wait([task], timeout=build.timeout_s - margin * 0.2)
        if not task.done():
            task.cancel()
            return self._unchecked(build, f"it took longer than {build.timeout_s:g} s")
        error = task.exception()
        if error is not None:  # whatever failed here must not stop a build
            log.error("pre_build_check_failed", workspace=build.workspace, exc_info=error)
            return self._unchecked(build, f"{type(error).__name__} on our side, see the log")
        return task.result()

    def _forget_check(self, task: "asyncio.Task[Answer]") -> None:
        self._checks.discard(task)
        if not task.cancelled():
            task.exception()  # told where it is waited for; nobody waits past the time-out

    def _unchecked(self, build: PreBuild, cause: str) -> Answer:
        enforcement: Enforcement = "strict" if build.workspace in self._strict else "advisory"
        incoming = build.incoming_bytes or 0
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
            incoming_source="request" if incoming else "none",
            outcome=Outcome(target_reached=False, done=True),
            warnings=["check_failed"],
        )

    async def _check(self, build: PreBuild, clean_until: float) -> Answer:
        look = await self._look(build)
        usage_before = look.figures.usage_bytes
        outcome = Outcome(done=True)
        warnings: list[str] = []
        tried = False
        while True:
            if not tried and needs_cleanup(look.figures, look.policy):
                tried = True
                outcome = await self._make_room(build, look, clean_until, warnings)
            answer = await self._answer(build, outcome, usage_before, warnings, tried=tried)
            if answer is not None:
                return answer
            # Somebody else's build or push filled the room between the look and the lock.
            look = await self._look(build)

    async def _make_room(
        self, build: PreBuild, look: _Reading, clean_until: float, warnings: list[str]
    ) -> Outcome:
        if look.view is None or not look.figures.can_ever_fit:
            return Outcome(target_reached=False, done=True)
        if build.dry_run:
            outcome = await self._dry_run(build, look.incoming)
        else:
            outcome = await self._clean(build, look, clean_until)
            if not outcome.done:
                warnings.append("cleanup_continues")
        warnings += outcome.warnings
        return outcome

    async def _look(self, build: PreBuild) -> _Reading:
        async with self._pool.acquire() as connection:
            return await self._read(connection, build)

    async def _read(self, connection: Connection, build: PreBuild) -> _Reading:
        now = self._clock()
        view = await reading.find_workspace(connection, build.workspace, now=now)
        reserved = 0
        if view is not None:
            reserved = view.reserved_bytes
            if reserved and build.build_id is not None:
                reserved = await workspaces.reserved_bytes(
                    connection, view.id, now=now, except_build=build.build_id
                )
            (self._strict.add if view.enforcement == "strict" else self._strict.discard)(view.name)
        incoming_bytes, source, held = await self._incoming(connection, build, view)
        return _Reading(
            view=view,
            policy=DEFAULT_POLICY if view is None else parse_policy(view.policy),
            figures=Figures(
                usage_bytes=0 if view is None else view.usage_bytes,
                reserved_bytes=reserved,
                incoming_bytes=incoming_bytes,
                quota_bytes=self._default_quota_bytes if view is None else view.quota_bytes,
            ),
            incoming=Incoming(incoming_bytes=incoming_bytes, reserved_bytes=reserved, digests=held),
            source=source,
        )

    @staticmethod
    async def _incoming(
        connection: Connection, build: PreBuild, view: WorkspaceView | None
    ) -> tuple[int, IncomingSource, frozenset[bytes]]:
        """(bytes, source, layers that the workspace holds already): layers before a plain number."""
        if build.layers is not None:
            held: frozenset[bytes] = frozenset()
            if view is not None:
                known = await reading.held(
                    connection, view.id, {digest for digest, _size in build.layers}
                )
                held = frozenset(digest for digest, entry in known.items() if entry.refs > 0)
            return incoming_from_layers(build.layers, held), "layers", held
        if build.incoming_bytes is not None:
            return build.incoming_bytes, "request", frozenset()
        return 0, "none", frozenset()

    async def _clean(self, build: PreBuild, first: _Reading, clean_until: float) -> Outcome:
        """One cleanup runs for a workspace; who joins it decides on fresh numbers afterwards."""
        loop = asyncio.get_running_loop()
        incoming = first.incoming
        while True:
            task, outcome, own = self._cleaner.start(build.workspace, incoming, cause="pre-build")
            await asyncio.wait([task], timeout=max(0.0, clean_until - loop.time()))
            if not task.done():
                return outcome
            if own:
                return task.result()
            # Somebody else's cleanup was for their build: is there room for this one, too?
            again = await self._look(build)
            if not needs_cleanup(again.figures, again.policy):
                return Outcome(done=True)
            incoming = again.incoming

    async def _dry_run(self, build: PreBuild, incoming: Incoming) -> Outcome:
        planned = await self._cleaner.plan(build.workspace, incoming)
        outcome = Outcome(done=True, warnings=["dry_run"])
        if planned is not None:
            _snapshot, plan = planned
            outcome.target_reached = plan.target_reached
            outcome.obstacle = plan.why_not
            outcome.warnings += [block.code for block in (*plan.blocks, *plan.warnings)]
        return outcome

    async def _answer(
        self,
        build: PreBuild,
        outcome: Outcome,
        usage_before: int,
        warnings: list[str],
        *,
        tried: bool,
    ) -> Answer | None:
        """Decide on fresh figures; under the workspace's lock where bytes are set aside.

        None when cleanup was not tried and turns out to be needed.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            reserves = build.build_id is not None and not build.dry_run
            if reserves:
                await workspaces.add_workspace(
                    connection, build.workspace, self._default_quota_bytes
                )
                await workspaces.lock_workspace(connection, build.workspace)
            now = await self._read(connection, build)
            if not tried and needs_cleanup(now.figures, now.policy):
                return None
            verdict = decide(
                build.workspace,
                now.figures,
                now.policy,
                enforcement=now.enforcement,
                cleanup_tried=tried,
                obstacle=outcome.obstacle,
            )
            reservation = None
            if verdict.decision == "deny":
                await self._announce_denial(connection, now, build, verdict)
            elif reserves and now.view is not None and now.figures.can_ever_fit:
                reservation = await self._reserve(connection, now.view, build, now.figures)
        if now.source == "none":
            warnings.append("incoming_unknown")
        return Answer(
            workspace=build.workspace,
            verdict=verdict,
            figures=now.figures,
            usage_before=usage_before,
            incoming_source=now.source,
            outcome=outcome,
            reservation=reservation,
            warnings=warnings,
        )

    async def _reserve(
        self, connection: Connection, view: WorkspaceView, build: PreBuild, figures: Figures
    ) -> Reservation:
        now = self._clock()
        return await workspaces.reserve(
            connection,
            view.id,
            Reservation(
                id=self._new_id(),
                build_id=build.build_id or "",
                app=build.app,
                bytes=figures.incoming_bytes,
                created_at=now,
                expires_at=now + RESERVATION_TTL,
            ),
        )

    async def _announce_denial(
        self, connection: Connection, now: _Reading, build: PreBuild, verdict: Verdict
    ) -> None:
        if now.view is None or build.dry_run:
            return
        await workspaces.lock_workspace(connection, build.workspace)
        if build.build_id is not None:
            await workspaces.release_build(connection, now.view.id, build.build_id)
        event = QuotaEvent(
            now.view.id,
            now.view.name,
            outbox.BUILD_DENIED,
            {
                "build_id": build.build_id,
                "app": build.app,
                "reason": verdict.reason,
                "message": verdict.message,
                "usage_bytes": now.figures.usage_bytes,
                "reserved_bytes": now.figures.reserved_bytes,
                "incoming_bytes": now.figures.incoming_bytes,
                "quota_bytes": now.figures.quota_bytes,
            },
        )
        await outbox.add_events(connection, [event], now=self._clock(), new_id=self._new_id)
