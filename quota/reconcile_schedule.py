"""Reconciliation in the background: on a schedule with jitter, one process at a time."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta

import asyncpg
from prometheus_client import CollectorRegistry, Gauge

from ledger import offsets, verify
from ledger import reconcile as rows
from ledger.reconcile import Pass
from quota.reconcile import AlreadyReconcilingError, Progress, Reconciler, Report
from registry.errors import RegistryError
from runtime.lifecycle import STOP_DEADLINE, Stopping, end
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

_LOOK_SECONDS = 30.0
"""Between two looks whether it is time; a pass of another process shows after as long."""


class ReconcileMetrics:
    """The last pass, whoever made it."""

    def __init__(
        self, registry: CollectorRegistry, progress: Callable[[], Progress] = Progress
    ) -> None:
        """`progress` tells how far this process's own pass is."""
        repositories = Gauge(
            "registry_quota_reconcile_repositories",
            "Repositories of this process's newest pass: in all, and done",
            ["state"],
            registry=registry,
        )
        repositories.labels("total").set_function(lambda: progress().total)
        repositories.labels("done").set_function(lambda: progress().done)
        self.running = Gauge(
            "registry_quota_reconcile_running",
            "Whether any process is reconciling (1) or not (0)",
            registry=registry,
        )
        self.finished = Gauge(
            "registry_quota_reconcile_last_finished_timestamp_seconds",
            "When a pass through the whole registry last came to its end (0: never)",
            registry=registry,
        )
        self.drift = Gauge(
            "registry_quota_drift_manifests",
            "What the last finished pass found wrong, by kind (0 is the only good value)",
            ["kind"],
            registry=registry,
        )
        self.drift_bytes = Gauge(
            "registry_quota_drift_bytes",
            "Bytes by which the last finished pass changed usage, up or down",
            registry=registry,
        )
        self.suspected = Gauge(
            "registry_quota_suspected_absences",
            "Manifests and tags that a pass did not find and that wait for a second one",
            registry=registry,
        )
        self.recount = Gauge(
            "registry_quota_recount_drift_bytes",
            "Counters minus independent recounts of all workspaces (0 is the only good value)",
            registry=registry,
        )
        self.recounted = Gauge(
            "registry_quota_recount_timestamp_seconds",
            "When a workspace was last recounted (0: never)",
            registry=registry,
        )

    async def refresh(self, pool: Pool) -> None:
        """Read them from the ledger."""
        async with pool.acquire() as connection:
            last = await rows.last_pass(connection, DEFAULT_REGISTRY, state="finished")
            drift = [] if last is None else await rows.drift(connection, last.id)
            self.suspected.set(await rows.count_suspected(connection))
            recount = await verify.kept(connection)
            self.running.set(await rows.running(connection))
        self.recount.set(recount.drift_bytes)
        self.recounted.set(0 if recount.counted_at is None else recount.counted_at.timestamp())
        if last is not None and last.finished_at is not None:
            self.finished.set(last.finished_at.timestamp())
        self.drift.labels("found").set(sum(item.found for item in drift))
        self.drift.labels("corrected").set(sum(item.corrected for item in drift))
        self.drift.labels("forgotten").set(sum(item.forgotten for item in drift))
        self.drift_bytes.set(sum(abs(item.drift_bytes) for item in drift))


def due_at(last: Pass | None, started: datetime, interval: timedelta, jitter: float) -> datetime:
    """When the next pass begins (UTC). PURE.

    `started`: this process; `jitter`: 0 to 1. A pass that did not come to its end, or none ever, is
    due soon, but not while everything else starts as well.
    """
    if last is None or last.state != "finished":
        since = started if last is None else max(started, last.changed_at)
        return since + interval * (0.05 + 0.05 * jitter)
    return last.started_at + interval * (0.9 + 0.2 * jitter)


class ReconcileSchedule:
    """Runs passes until it is asked to stop."""

    def __init__(
        self,
        reconciler: Reconciler,
        *,
        pool: Pool,
        metrics: ReconcileMetrics,
        interval: timedelta,
        stopping: Stopping,
        clock: Callable[[], datetime],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """An `interval` of 0 makes no pass and still shows those of others."""
        self._reconciler = reconciler
        self._pool = pool
        self._metrics = metrics
        self._interval = interval
        self._stopping = stopping
        self._clock = clock
        self._jitter = jitter

    async def run(self) -> None:
        """Look now and then whether it is time."""
        started = self._clock()
        jitter = self._jitter()
        wait = 0.0
        while not await self._stopping.sleep(wait):
            wait = _LOOK_SECONDS
            try:
                await self._metrics.refresh(self._pool)
                if not self._interval:
                    continue
                async with self._pool.acquire() as connection:
                    last = await rows.last_pass(connection, DEFAULT_REGISTRY)
                    broken = await offsets.broken_after(connection, last.after_break if last else 0)
                due = due_at(last, started, self._interval, jitter)
                if broken is not None:  # notifications may be missing that nobody sends again
                    due = min(due, self._clock())
                if self._clock() < due:
                    wait = min(wait, (due - self._clock()).total_seconds())
                    continue
                await self._pass(due)
                started, jitter = self._clock(), self._jitter()
                wait = 0.0
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("reconcile_interrupted", reason=f"{type(error).__name__}: {error}")

    async def _pass(self, due: datetime) -> None:
        """One pass; a stop of the process ends it, and it goes on with the next start."""
        running = asyncio.create_task(self._reconciler.run(unless_since=due))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([running, stop], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                return
            report = running.result()
            if report is not None:
                _tell(report)
        except AlreadyReconcilingError:
            await self._stopping.sleep(_LOOK_SECONDS)
        except RegistryError as error:
            log.warning("reconcile_stopped", reason=str(error))
        finally:
            await end((running, stop), putting_away=STOP_DEADLINE)


def _tell(report: Report) -> None:
    for item in report.drift:
        log.warning(
            "drift_detected",
            workspace=item.workspace,
            found=item.found,
            corrected=item.corrected,
            forgotten=item.forgotten,
            drift_bytes=item.drift_bytes,
        )
    for problem in report.problems:
        log.warning("reconcile_problem", problem=problem)
    log.info("reconciled", repositories=report.repositories, manifests=report.manifests)
