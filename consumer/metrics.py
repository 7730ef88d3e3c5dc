"""What the consumer counts. Text from outside is never a label. `docs/reference/metrics.md` lists it."""

import math
import time
from collections import Counter as Tally
from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ledger.offsets import BreakKind


class ConsumerMetrics:
    """Metrics of one consumer process."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` is seconds since the epoch, UTC."""
        self.registry = CollectorRegistry()
        self.events = Counter(
            "registry_quota_consumer_events",
            "Events taken from the topic, by action and result",
            ["action", "result"],
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "registry_quota_consumer_dead_letters",
            "Events put aside, by why: malformed, or refused by the ledger",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("malformed", "refused"):
            self.dead_letters.labels(reason)
        self.log_breaks = Counter(
            "registry_quota_consumer_log_breaks",
            "Partitions whose log did not go on where the ledger stood, by how",
            ["kind"],
            registry=self.registry,
        )
        for kind in get_args(BreakKind):
            self.log_breaks.labels(kind)
        self.halted = Gauge(
            "registry_quota_consumer_halted",
            "1 while it takes nothing because too many events failed (RQ_DEAD_LETTER_CEILING)",
            registry=self.registry,
        )
        self.batch_events = Histogram(
            "registry_quota_consumer_batch_events",
            "Events in one transaction",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "registry_quota_consumer_batch_seconds",
            "Seconds from a batch's decoding to its commit",
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.delay_seconds = Histogram(
            "registry_quota_consumer_delay_seconds",
            "Seconds from Kafka's taking the oldest event of a batch to the batch's commit",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
            registry=self.registry,
        )
        self.lag = Gauge(
            "registry_quota_consumer_lag_events",
            "Events in the assigned partitions that are not recorded yet",
            registry=self.registry,
        )
        self.oldest_ms: dict[int, int] = {}
        """When Kafka took the oldest event that each lane is recording: milliseconds since the epoch."""
        lag_seconds = Gauge(
            "registry_quota_consumer_lag_seconds",
            "Age of the oldest event that was fetched and is not recorded yet",
            registry=self.registry,
        )
        lag_seconds.set_function(
            lambda: max(0.0, now() - min(self.oldest_ms.values(), default=math.inf) / 1000)
        )
        self.database_waits = Counter(
            "registry_quota_consumer_database_waits",
            "Times a batch had to wait because the database was away",
            registry=self.registry,
        )
        self.pending = Gauge(
            "registry_quota_consumer_sizes_pending",
            "Manifests whose size is not known yet, when this process last looked",
            registry=self.registry,
        )
        self.tag_checks = Counter(
            "registry_quota_tag_checks",
            "Questions about tags that were set twice within seconds, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.manifest_checks = Counter(
            "registry_quota_manifest_checks",
            "Questions whether a manifest is there that an event may have told the delete of, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.size_checks = Counter(
            "registry_quota_size_checks",
            "Questions how large a blob is in storage, by outcome",
            ["outcome"],
            registry=self.registry,
        )

    def counted(self, tally: Tally[tuple[str, str]]) -> None:
        """Count events by (action, result); once a batch, because a label costs its look-up."""
        for labels, count in tally.items():
            self.events.labels(*labels).inc(count)
