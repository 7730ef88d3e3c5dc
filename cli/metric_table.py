"""The table of every metric, from the code: `docs/reference/metrics.md`."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry


class Described(NamedTuple):
    """A metric as Prometheus sees it. `name` without the suffixes of histograms."""

    process: str
    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def registries() -> dict[str, CollectorRegistry]:
    """Process → everything that it exports, as its wiring puts it together."""
    from consumer.metrics import ConsumerMetrics
    from quota.metrics import QuotaMetrics
    from quota.reconcile_schedule import ReconcileMetrics
    from quota.watch import WatchMetrics
    from webhook_receiver.metrics import ReceiverMetrics

    api = QuotaMetrics().registry
    ReconcileMetrics(api)
    WatchMetrics(api)
    return {
        "receiver": ReceiverMetrics(lambda: 0).registry,
        "consumer": ConsumerMetrics().registry,
        "api": api,
    }


def exported() -> list[Described]:
    """Every metric of every process, by process and name."""
    return [
        item
        for process, registry in registries().items()
        for item in sorted(_of(process, registry), key=lambda item: item.name)
    ]


def _of(process: str, registry: CollectorRegistry) -> Iterator[Described]:
    # A labelled metric that has counted nothing yet has no samples to read its labels from.
    for collector in registry._collector_to_names:  # noqa: SLF001 - the only list of collectors
        labels: Any = getattr(collector, "_labelnames", None)
        for family in collector.collect():
            if labels is None:
                names = {key for sample in family.samples for key in sample.labels} - {"le"}
                found = tuple(sorted(names))
            else:
                found = tuple(labels)
            suffix = "_total" if family.type == "counter" else ""
            yield Described(process, family.name + suffix, family.type, found, family.documentation)


def series(item: Described) -> set[str]:
    """The names under which Prometheus stores a metric."""
    if item.kind == "histogram":
        return {f"{item.name}_{end}" for end in ("bucket", "sum", "count")}
    return {item.name}


def document() -> str:
    """`docs/reference/metrics.md`."""
    rows = "\n".join(
        f"| `{item.name}` | {item.kind} | {', '.join(f'`{label}`' for label in item.labels)} "
        f"| {item.process} | {item.meaning} |"
        for item in exported()
    )
    return f"""\
# Metrics

`GET /metrics` of the receiver (`RQ_RECEIVER_PORT`), the API (`RQ_API_PORT`) and the consumer (`RQ_CONSUMER_METRICS_PORT`; unset: a free port that its log names). Each of them also answers `/healthz` and `/readyz`. No token is asked for: keep these doors inside.

Bytes, seconds and UTC. A gauge that is `NaN` is not known just now. What came from outside is never a label, with one exception: the names of the `RQ_METRICS_WORKSPACES` (50) fullest workspaces and of all that exceed their quota, and those only when they are plain (`A-Za-z0-9_./-`); `registry_quota_workspaces_without_series` counts the others.

Alert rules, a Grafana dashboard and what Prometheus and Grafana read at their start are in [deploy/monitoring](../../deploy/monitoring). This table is written by `make reference` and compared with the code by a test.

| name | type | labels | process | meaning |
|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    print(document(), end="")
