"""What the API process measures on its own every few seconds, so that a dead consumer shows, too.

Workspaces' names become labels only when they are plain (a registry's own names are), and only
those of the fullest and of all that exceed their quota: the number of series stays bounded however
many workspaces there are. How many have none is a gauge of its own.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
from prometheus_client import CollectorRegistry, Gauge

from ledger import figures, reading
from ledger.figures import Fullness
from quota.levels import LEVELS
from quota.pipeline import Flow, Pipeline
from quota.registry_watch import RegistryState
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool

log = get_logger(__name__)

EVERY_SECONDS: Final = 10.0
_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}")
_MOST_SERIES: Final = 5000
"""Workspaces with series of their own, however many exceed their quota."""
_UNKNOWN: Final = float("nan")


class WatchMetrics:
    """Gauges of the whole pipeline. NaN: not known just now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"registry_quota_{name}", meaning, labels, registry=registry)

        self.kafka = gauge(
            "kafka_reachable", "Whether Kafka answers the API process (1) or not (0)"
        )
        self.registry = gauge(
            "registry_reachable",
            "Whether the registry answers the API process and lets it in (1) or not (0)",
        )
        self.lag_events = gauge(
            "lag_events", "Events that are not recorded yet, of all partitions, consumer or not"
        )
        self.lag_seconds = gauge("lag_seconds", "Age of the oldest event that is not recorded yet")
        self.dead_letters = gauge("dead_letters", "Dead letters that nobody has retried or dropped")
        self.outbox_events = gauge("outbox_events", "Quota events that wait for publication")
        self.outbox_age = gauge("outbox_age_seconds", "Age of the oldest of them")
        self.sizes_pending = gauge("sizes_pending", "Manifests whose size is not known yet")
        self.usage = gauge("usage_bytes", "Bytes that all workspaces use, each counted on its own")
        self.workspaces = gauge("workspaces", "Workspaces by level", "level")
        self.without_series = gauge(
            "workspaces_without_series",
            "Workspaces that have no series of their own, by level",
            "level",
        )
        self.workspace_usage = gauge(
            "workspace_usage_bytes",
            "Usage of the fullest workspaces, and of all that exceed their quota",
            "workspace",
        )
        self.workspace_quota = gauge("workspace_quota_bytes", "Quota of the same", "workspace")
        self.workspace_level = gauge(
            "workspace_level",
            "Level of the same: 0 ok, 1 warning, 2 critical, 3 exceeded",
            "workspace",
        )
        self.watched = gauge(
            "watch_timestamp_seconds",
            "When the gauges of this process were last brought up to date",
        )

    def show_flow(self, flow: Flow) -> None:
        """What waits in Kafka."""
        self.kafka.set(flow.kafka_reachable)
        self.lag_events.set(_known(flow.lag_events))
        self.lag_seconds.set(_known(flow.lag_seconds))
        self.dead_letters.set(_known(flow.dead_letters))

    def show_registry(self, registry: RegistryState) -> None:
        """Whether cleanups and comparisons can do anything."""
        known = registry.state != "unknown"
        self.registry.set(registry.state == "up" if known else _UNKNOWN)

    def show_status(self, status: Mapping[str, Any]) -> None:
        """What waits in Postgres."""
        self.outbox_events.set(status["outbox_waiting"])
        self.outbox_age.set(status["outbox_age_seconds"] or 0.0)
        self.sizes_pending.set(status["sizes_pending"])

    def show_workspaces(
        self, fullest: Sequence[Fullness], levels: Mapping[str, tuple[int, int]]
    ) -> None:
        """Who uses how much; those that are no longer among the fullest disappear."""
        self.usage.set(sum(usage for _count, usage in levels.values()))
        named = [item for item in fullest if _PLAIN.fullmatch(item.workspace)]
        shown = Counter(item.level for item in named)
        for level in LEVELS:
            count = levels.get(level, (0, 0))[0]
            self.workspaces.labels(level).set(count)
            self.without_series.labels(level).set(max(0, count - shown[level]))
        for gauge in (self.workspace_usage, self.workspace_quota, self.workspace_level):
            gauge.clear()
        for item in named:
            self.workspace_usage.labels(item.workspace).set(item.usage_bytes)
            self.workspace_quota.labels(item.workspace).set(item.quota_bytes)
            self.workspace_level.labels(item.workspace).set(LEVELS.index(item.level))


def _known(figure: float | None) -> float:
    return _UNKNOWN if figure is None else figure


class Watch:
    """Brings the gauges up to date until it is asked to stop."""

    def __init__(
        self,
        pipeline: Pipeline,
        pool: Pool,
        *,
        metrics: WatchMetrics,
        most_workspaces: int,
        stopping: Stopping,
        clock: Callable[[], datetime],
    ) -> None:
        self._pipeline = pipeline
        self._pool = pool
        self._metrics = metrics
        self._most_workspaces = most_workspaces
        self._stopping = stopping
        self._clock = clock

    async def run(self) -> None:
        """Look every few seconds."""
        while not self._stopping.is_set():
            try:
                await self.look()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("watch_interrupted", reason=f"{type(error).__name__}: {error}")
            await self._stopping.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Bring every gauge up to date."""
        self._metrics.show_flow(await self._pipeline.flow())
        await self._pipeline.receiver.look()  # so that it knows what "lately" was
        self._metrics.show_registry(await self._pipeline.registry.look())
        async with self._pool.acquire() as connection:
            status = await reading.status(connection, now=self._clock())
            fullest = (
                await figures.fullest(connection, self._most_workspaces, most=_MOST_SERIES)
                if self._most_workspaces
                else []
            )
            levels = await figures.levels(connection)
        self._metrics.show_status(status)
        self._metrics.show_workspaces(fullest, levels)
        self._metrics.watched.set(self._clock().timestamp())
