"""What the API process counts. Text from outside is never a label. `docs/reference/metrics.md` lists it."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class QuotaMetrics:
    """Metrics of one API process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.refusals = Counter(
            "registry_quota_api_refusals",
            "Calls by nobody who is known (unauthenticated), or beyond a token's scopes (denied), by door",
            ["door", "why"],
            registry=self.registry,
        )
        for door in ("http", "grpc"):
            for why in ("unauthenticated", "denied"):
                self.refusals.labels(door, why)
        self.decisions = Counter(
            "registry_quota_hook_decisions",
            "Answers of the pre-build hook",
            ["decision", "reason"],
            registry=self.registry,
        )
        self.hook_seconds = Histogram(
            "registry_quota_hook_seconds",
            "Seconds that a pre-build call took, cleanup included",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self.freed_bytes = Counter(
            "registry_quota_cleanup_freed_bytes",
            "Bytes that cleanups took off the account",
            registry=self.registry,
        )
        self.images = Counter(
            "registry_quota_cleanup_images",
            "Manifests that cleanups dealt with",
            ["result"],
            registry=self.registry,
        )
        self.put_back = Counter(
            "registry_quota_cleanup_put_back",
            "Manifests put back because a push had raced their deletion",
            registry=self.registry,
        )
        self.gc_bytes = Counter(
            "registry_quota_gc_bytes",
            "Bytes that garbage collections were predicted to free, and what verifying them found",
            ["outcome"],
            registry=self.registry,
        )
        self.published = Counter(
            "registry_quota_events_published",
            "Quota events handed to Kafka",
            registry=self.registry,
        )

    def refused(self, door: str, why: str) -> None:
        """Count a call that was not let in."""
        self.refusals.labels(door, why).inc()
