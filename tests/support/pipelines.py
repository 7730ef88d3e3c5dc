"""What `GET /v1/status` rests on, of a healthy pipeline: for tests of what is made of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


def status(**changes):
    """A healthy pipeline, but for what changes (`a__b`: a field of a document)."""
    document: dict[str, Any] = {
        "receiver": {
            "url": "http://r:8080",
            "state": "up",
            "reason": "",
            "accepted": 12,
            "refused": 0,
            "unavailable_lately": 0,
            "unauthorized_lately": 0,
        },
        "kafka_reachable": True,
        "lag_events": 0,
        "lag_seconds": 0.0,
        "partition_lag": [{"partition": 0, "lag_events": 0}, {"partition": 1, "lag_events": 0}],
        "log": {"broken_at": None, "partitions": 0, "kinds": [], "restored_at": None},
        "partitions": [{"partition": 0, "changed_at": ago(5)}],
        "consumers": 1,
        "sizes_pending": 0,
        "outbox_waiting": 0,
        "outbox_age_seconds": None,
        "dead_letters": 0,
        "reconciliation": {
            "running": False,
            "last_finished_at": ago(3600),
            "last_error": None,
            "drift": [],
        },
        "drift": {"drift_bytes": 0, "wrong_digests": 0, "workspaces": [], "counted_at": ago(60)},
        "stale_leases": [],
        "stale_leases_total": 0,
        "cleanups": {"running": 0, "without_owner": []},
        "recent_errors": [],
        "recent_errors_total": 0,
        "registry": {"url": "http://registry:5000", "state": "up", "reason": ""},
    }
    for name, value in changes.items():
        whole, _, field = name.partition("__")
        if field:
            document[whole] = document[whole] | {field: value}
        else:
            document[whole] = value
    return document
