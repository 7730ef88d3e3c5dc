"""What the pipeline's figures mean: every part healthy, to be looked at, or broken, and the remedy."""

import pytest

from quota.health import judge, worst
from registry.errors import KNOWN_CACHE, PullThroughCache
from tests.support.pipelines import NOW, ago, status


def checks(**changes):
    return {item.name: item for item in judge(status(**changes), now=NOW)}


def test_a_healthy_pipeline_is_healthy_in_every_part():
    found = judge(status(), now=NOW)
    assert {item.state for item in found} == {"ok"}
    assert worst(found) == "ok"
    assert [item.name for item in found][:4] == ["receiver", "kafka", "log", "lag"]


MIDDLE = [{"partition": 0, "lag_events": 7}]
BROKEN = {"log__broken_at": ago(60), "log__partitions": 1, "log__kinds": ["ends_before"]}
LATE = {"lag_events": 7, "partition_lag": MIDDLE}


@pytest.mark.parametrize(
    ("name", "state", "told", "changes"),
    [
        ("receiver", "failed", "does not answer", {"receiver__state": "down", "receiver__reason": "does not answer: x"}),
        ("receiver", "failed", "Kafka is away", {"receiver__state": "not ready", "receiver__reason": "is not ready: Kafka is away"}),
        ("receiver", "unknown", "no other", {"receiver__state": "unknown", "receiver__reason": "no other address"}),
        ("receiver", "warning", "503 4 times", {"receiver__unavailable_lately": 4}),
        ("receiver", "warning", "wrong token", {"receiver__unauthorized_lately": 4}),
        ("kafka", "failed", "does not answer", {"kafka_reachable": False}),
        ("log", "unknown", "does not tell", {"kafka_reachable": False}),
        ("log", "failed", "40 events less than", {"partition_lag": [{"partition": 0, "lag_events": -40}]}),
        ("log", "warning", "1 partition did not go on", BROKEN),
        ("lag", "unknown", "does not tell", {"lag_events": None, "lag_seconds": None}),
        ("lag", "ok", "7 events in 1 partition", {"lag_seconds": 2.0, **LATE}),
        ("lag", "warning", "for 12 seconds", {"lag_seconds": 12.0, **LATE}),
        ("lag", "failed", "for 2 minutes", {"lag_seconds": 150.0, **LATE}),
        ("consumer", "failed", "none runs; last batch 5 seconds ago", {"consumers": 0}),
        ("consumer", "failed", "no batch yet", {"consumers": 0, "partitions": []}),
        ("consumer", "unknown", "does not tell", {"consumers": None}),
        ("consumer", "ok", "1 consumer at work", {"lag_seconds": 90.0}),
        ("consumer", "failed", "although events wait", {"lag_seconds": 90.0, "partitions": [{"changed_at": ago(80)}]}),
        ("registry", "failed", "refuses us", {"registry__state": "refuses", "registry__reason": "401"}),
        ("registry", "failed", "does not answer", {"registry__state": "down", "registry__reason": "no answer"}),
        ("registry", "unknown", "not set", {"registry__state": "unknown", "registry__reason": "it is not set"}),
        ("sizes", "warning", "1 manifest whose", {"sizes_pending": 1}),
        ("outbox", "ok", "3 events", {"outbox_waiting": 3, "outbox_age_seconds": 1.0}),
        ("outbox", "warning", "for 11 seconds", {"outbox_waiting": 3, "outbox_age_seconds": 11.0}),
        ("outbox", "failed", "for 1 minute", {"outbox_waiting": 3, "outbox_age_seconds": 61.0}),
        ("dead_letters", "warning", "2 events could not", {"dead_letters": 2}),
        ("dead_letters", "unknown", "does not tell", {"dead_letters": None}),
        ("reconciliation", "warning", "stopped: away", {"reconciliation__last_error": "away"}),
        (
            "reconciliation",
            "warning",
            "could not read everything: 2 things",
            {"reconciliation__last_error": "2 things", "reconciliation__last_started_at": ago(3700)},
        ),
        (
            "reconciliation",
            "warning",
            "stopped: away",
            {"reconciliation__last_error": "away", "reconciliation__last_started_at": ago(60)},
        ),
        ("reconciliation", "ok", "yet to come", {"reconciliation__last_finished_at": None}),
        ("reconciliation", "warning", "that is long", {"reconciliation__last_finished_at": ago(100_000)}),
        (
            "reconciliation",
            "warning",
            "mended 3 differences in acme",
            {"reconciliation__drift": [{"workspace": "acme", "found": 1, "corrected": 2, "forgotten": 0}]},
        ),
        ("counters", "failed", "off by 7 bytes in acme", {"drift__drift_bytes": 7, "drift__workspaces": ["acme"]}),
        (
            "leases",
            "warning",
            "k8s (acme); the oldest for 2 hours",
            {"stale_leases": [{"workspace": "acme", "source": "k8s", "expires_at": ago(7300)}]},
        ),
        ("cleanups", "ok", "2 runs under way", {"cleanups__running": 2}),
        ("cleanups", "warning", "acme", {"cleanups__without_owner": ["acme"]}),
        (
            "errors",
            "warning",
            "the newest: relay failed",
            {"recent_errors": [{"at": NOW, "level": "error", "what": "relay failed", "times": 3}]},
        ),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_said_with_what_to_do(name, state, told, changes):
    check = checks(**changes)[name]
    assert check.state == state, check
    assert told in check.found
    assert bool(check.mend) == (state != "ok") or state == "unknown"


def test_the_worst_part_speaks_for_the_whole():
    assert worst(judge(status(sizes_pending=1), now=NOW)) == "warning"
    assert worst(judge(status(sizes_pending=1, consumers=0), now=NOW)) == "failed"
    assert worst(judge(status(consumers=None), now=NOW)) == "unknown"


def test_a_cache_that_is_known_is_nothing_to_look_at():
    assert checks(reconciliation__last_error=KNOWN_CACHE)["reconciliation"].state == "ok"


def test_nobody_is_told_to_run_again_what_cannot_be_done():
    told = str(PullThroughCache())
    check = checks(reconciliation__last_error=told, reconciliation__last_started_at=ago(60))[
        "reconciliation"
    ]
    assert "RQ_REGISTRY_PULL_THROUGH" in check.found
    assert "registry-quota reconcile" not in check.found + check.mend
