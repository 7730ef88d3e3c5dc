"""What the consumer counts. Text from outside is never a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ConsumerMetrics:
    """Metrics of one consumer process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.events = Counter(
            "registry_quota_consumer_events",
            "Events taken from the topic, by action (or 'dead-letter')",
            ["action"],
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
        self.lag = Gauge(
            "registry_quota_consumer_lag_events",
            "Events in the assigned partitions that are not recorded yet",
            registry=self.registry,
        )
        self.database_waits = Counter(
            "registry_quota_consumer_database_waits",
            "Times a batch had to wait because the database was away",
            registry=self.registry,
        )
        self.pending = Gauge(
            "registry_quota_sizes_pending",
            "Manifests whose size is not known yet",
            registry=self.registry,
        )
        self.tag_checks = Counter(
            "registry_quota_tag_checks",
            "Questions about tags that were set twice within seconds, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.size_checks = Counter(
            "registry_quota_size_checks",
            "Questions how large a blob is in storage, by outcome",
            ["outcome"],
            registry=self.registry,
        )
