"""What the receiver counts. Labels are ours: nothing from outside is ever one. See docs/reference/metrics.md."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from registry.models import Action
from webhook_receiver.messages import Message, Reason

STATUSES: Final = (202, 400, 401, 408, 503)
ACTIONS: Final = get_args(Action)

_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class ReceiverMetrics(Collector):
    """One app's metrics, in a registry of their own.

    Plain numbers on the way of a delivery (one event loop, no locks), turned into Prometheus's
    families when somebody asks.
    """

    def __init__(self, in_flight_bytes: Callable[[], int], *, started: float = 0.0) -> None:
        """`started`: when the process did, seconds since the epoch."""
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.producers_opened = 0
        self._in_flight_bytes = in_flight_bytes
        self._started = started
        self._answers: Counter[int] = Counter()
        self._stored: Counter[str] = Counter()
        self._acknowledgements = [0] * (len(_BOUNDS) + 1)
        self._acknowledgement_seconds = 0.0

    def answered(self, status: int) -> None:
        """Count an answer; `status` is one of STATUSES."""
        self._answers[status] += 1

    def stored(self, messages: Iterable[Message]) -> None:
        """Count messages that are durably in Kafka."""
        for message in messages:
            self._stored[message.label] += 1

    def acknowledged(self, seconds: float) -> None:
        """Count a delivery all of which is durably in Kafka, and how long that took."""
        self._acknowledgements[bisect_left(_BOUNDS, seconds)] += 1
        self._acknowledgement_seconds += seconds

    def totals(self) -> Counter[str]:
        """Answers by status, and what was stored by action or reason."""
        return Counter({f"answered_{status}": count for status, count in self._answers.items()}) + (
            Counter({f"stored_{label}": count for label, count in self._stored.items()})
        )

    def collect(self) -> Iterator[Metric]:
        """The families, as Prometheus's registry asks for them."""
        requests = CounterMetricFamily(
            "registry_quota_receiver_requests", "Deliveries by answer", labels=["status"]
        )
        for status in STATUSES:
            requests.add_metric([str(status)], self._answers[status])
        yield requests
        events = CounterMetricFamily(
            "registry_quota_receiver_events", "Events stored", labels=["action"]
        )
        for action in ACTIONS:
            events.add_metric([action], self._stored[action])
        yield events
        dead_letters = CounterMetricFamily(
            "registry_quota_receiver_dead_letters", "Dead letters stored", labels=["reason"]
        )
        for reason in Reason:
            dead_letters.add_metric([reason.value], self._stored[reason.value])
        yield dead_letters
        counts = accumulate(self._acknowledgements)
        yield HistogramMetricFamily(
            "registry_quota_receiver_acknowledgement_seconds",
            "From a delivery's headers to its 202",
            buckets=list(zip([*map(str, _BOUNDS), "+Inf"], counts, strict=True)),
            sum_value=self._acknowledgement_seconds,
        )
        yield CounterMetricFamily(
            "registry_quota_receiver_kafka_producers",
            "Kafka producers opened",
            value=self.producers_opened,
        )
        yield GaugeMetricFamily(
            "registry_quota_receiver_start_time_seconds",
            "When the process started, seconds since the epoch",
            value=self._started,
        )
        yield GaugeMetricFamily(
            "registry_quota_receiver_in_flight_bytes",
            "Bytes being read or not yet taken by Kafka",
            value=self._in_flight_bytes(),
        )
