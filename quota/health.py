"""Is the pipeline healthy: what its figures mean, and what to do where they are not good. PURE.

The page `/pipeline`, `registry-quota status`, `doctor` and `GET /v1/status` all say what is decided here.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from quota.words import format_seconds, plural
from registry.errors import KNOWN_CACHE, PullThroughCache

State = Literal["ok", "warning", "failed", "unknown"]

WORST_FIRST: Final[tuple[State, ...]] = ("failed", "warning", "unknown", "ok")

_SLOW_LAG: Final = 10.0
"""Seconds that an event may wait before one should look."""
_STALLED: Final = 60.0
"""Seconds: what waits so long is not being worked on (alerts.yml says the same)."""
_OVERDUE: Final = 86_400.0
"""Seconds since a pass over the registry came to its end."""
_NAMED: Final = 3

Document = Mapping[str, Any]
"""`GET /v1/status` without its checks."""


class Check(msgspec.Struct, frozen=True):
    """One part of the pipeline. `mend` says what to do; empty when there is nothing to do."""

    name: str
    title: str
    state: State
    found: str
    mend: str = ""


def judge(document: Document, *, now: datetime) -> list[Check]:
    """Every part, in the order in which an event goes through them."""
    return [
        _receiver(document["receiver"]),
        _kafka(document),
        _log(document),
        _lag(document),
        _consumer(document, now),
        _registry(document["registry"]),
        _sizes(document),
        _outbox(document),
        _dead_letters(document),
        _reconciliation(document["reconciliation"], now),
        _counters(document["drift"], now),
        _leases(document["stale_leases"], document["stale_leases_total"], now),
        _cleanups(document["cleanups"]),
        _errors(document["recent_errors"], document["recent_errors_total"]),
    ]


def worst(checks: list[Check]) -> State:
    """The whole pipeline's state: that of its worst part."""
    return min((item.state for item in checks), key=WORST_FIRST.index, default="ok")


def _time(seconds: float) -> str:
    return format_seconds(max(0, int(seconds)))


def _receiver(receiver: Document) -> Check:
    def check(state: State, found: str, mend: str = "") -> Check:
        return Check("receiver", "Receiver", state, found, mend)

    start = "start it with `registry-quota serve receiver`, and see its log"
    if receiver["state"] == "unknown":
        return check("unknown", receiver["reason"], "set RQ_RECEIVER_URL for the API process")
    if receiver["state"] != "up":
        return check("failed", f"{receiver['url']} {receiver['reason']}", start)
    found = f"{receiver['accepted']} deliveries accepted and {receiver['refused']} refused since it started"
    if receiver["unavailable_lately"]:
        return check(
            "warning",
            f"{found}; it answered 503 {receiver['unavailable_lately']} times in the last minutes",
            "look at Kafka before a registry restarts: it keeps in memory what was not taken",
        )
    if receiver["unauthorized_lately"]:
        return check(
            "warning",
            f"{found}; {receiver['unauthorized_lately']} came with a wrong token in the last minutes",
            "give the registry one of RQ_WEBHOOK_TOKENS: what it cannot deliver waits in its memory",
        )
    return check("ok", found)


def _kafka(document: Document) -> Check:
    if document["kafka_reachable"]:
        found = plural(len(document["partition_lag"]), "partition") + " of notifications answer"
        return Check("kafka", "Kafka", "ok", found)
    mend = "see that the brokers run, and RQ_KAFKA_BOOTSTRAP; `registry-quota doctor` says more"
    return Check("kafka", "Kafka", "failed", "does not answer the API process", mend)


def _log(document: Document) -> Check:
    """Whether the log is the one that was read."""

    def check(state: State, found: str, mend: str = "") -> Check:
        return Check("log", "Notifications", state, found, mend)

    short = [item for item in document["partition_lag"] if item["lag_events"] < 0]
    if short:
        missing = -sum(item["lag_events"] for item in short)
        return check(
            "failed",
            f"{plural(len(short), 'partition')} ends before what was read: {plural(missing, 'event')} "
            "less than the ledger has seen",
            "Kafka's data is older than the ledger: the consumer reads it again by itself within seconds;"
            " else see its log",
        )
    log = document["log"]
    if log["restored_at"] is not None:
        return check(
            "failed",
            "an older backup of the database was put back: leases, rules, mappings and tokens since then are "
            "not known, and nothing is deleted",
            "put back what is lost (leases come with their sources' next reports), then "
            "`registry-quota reconcile --confirm-restored`",
        )
    if log["broken_at"] is not None:
        kinds = ", ".join(kind.replace("_", " ") for kind in log["kinds"])
        return check(
            "warning",
            f"{plural(log['partitions'], 'partition')} did not go on where the ledger stood ({kinds}); "
            "what it had not seen is read again, and the registry has not been compared since",
            "a reconciliation starts by itself; `registry-quota reconcile` does it now",
        )
    if not document["kafka_reachable"]:
        return check("unknown", "Kafka does not tell how far they reach")
    return check("ok", "they go on where the ledger stands")


def _lag(document: Document) -> Check:
    events, seconds = document["lag_events"], document["lag_seconds"]
    if events is None or seconds is None:
        return Check("lag", "Topic lag", "unknown", "Kafka does not tell what waits")
    behind = [item for item in document["partition_lag"] if item["lag_events"] > 0]
    if events <= 0 and not behind:
        return Check("lag", "Topic lag", "ok", "everything that arrived is recorded")
    events = max(events, sum(item["lag_events"] for item in behind))
    found = (
        f"{plural(events, 'event')} in {plural(len(behind), 'partition')} not recorded yet, "
        f"the oldest for {_time(seconds)}"
    )
    if seconds < _SLOW_LAG:
        return Check("lag", "Topic lag", "ok", found)
    mend = "usage is out of date by that: see the consumer, its log, and Postgres"
    return Check("lag", "Topic lag", "failed" if seconds >= _STALLED else "warning", found, mend)


def _consumer(document: Document, now: datetime) -> Check:
    def check(state: State, found: str, mend: str = "") -> Check:
        return Check("consumer", "Consumer", state, found, mend)

    start = "start it with `registry-quota serve consumer`, and see its log"
    moments = [item["changed_at"] for item in document["partitions"]]
    last = (
        f"last batch {_time((now - max(moments)).total_seconds())} ago"
        if moments
        else "no batch yet"
    )
    members = document["consumers"]
    if members is None:
        return check("unknown", f"Kafka does not tell whether one runs; {last}")
    if not members:
        return check("failed", f"none runs; {last}", start)
    found = f"{plural(members, 'consumer')} at work, {last}"
    waiting = document["lag_seconds"] or 0.0
    idle = (now - max(moments)).total_seconds() if moments else waiting
    if waiting >= _STALLED and idle >= _STALLED:
        return check(
            "failed",
            f"{found}, although events wait",
            "see its log: it halts when it can read nothing any more, and waits while Postgres is away",
        )
    return check("ok", found)


def _registry(registry: Document) -> Check:
    def check(state: State, found: str, mend: str = "") -> Check:
        return Check("registry", "Registry", state, found, mend)

    if registry["state"] == "up":
        return check("ok", f"{registry['url']} answers and lets us in")
    if registry["state"] == "unknown":
        return check("unknown", registry["reason"], "set RQ_REGISTRY_URL for the API process")
    nothing = "nothing can be cleaned, compared or restored"
    if registry["state"] == "refuses":
        return check(
            "failed",
            f"{registry['url']} refuses us, so {nothing}: {registry['reason']}",
            "set RQ_REGISTRY_USERNAME and RQ_REGISTRY_PASSWORD to an account that may read and "
            "delete; `registry-quota doctor` says more",
        )
    return check(
        "failed",
        f"{registry['url']} does not answer, so {nothing}: {registry['reason']}",
        "see that it runs, and RQ_REGISTRY_URL; `registry-quota doctor` says more",
    )


def _sizes(document: Document) -> Check:
    pending = document["sizes_pending"]
    if not pending:
        return Check("sizes", "Sizes", "ok", "all are known")
    found = f"{plural(pending, 'manifest')} whose layers are not counted yet"
    mend = (
        "set `notifications.events.includereferences: true` in the registry's configuration, and see "
        "that RQ_REGISTRY_URL can be read"
    )
    return Check("sizes", "Sizes", "warning", found, mend)


def _outbox(document: Document) -> Check:
    waiting, seconds = document["outbox_waiting"], document["outbox_age_seconds"] or 0.0
    if not waiting:
        return Check("outbox", "Quota events", "ok", "all are published")
    found = f"{plural(waiting, 'event')} not published yet, the oldest for {_time(seconds)}"
    if seconds < _SLOW_LAG:
        return Check("outbox", "Quota events", "ok", found)
    mend = "see the API's log (its relay publishes them), and that it reaches Kafka"
    state: State = "failed" if seconds >= _STALLED else "warning"
    return Check("outbox", "Quota events", state, found, mend)


def _dead_letters(document: Document) -> Check:
    dead = document["dead_letters"]
    if dead is None:
        return Check("dead_letters", "Dead letters", "unknown", "Kafka does not tell")
    if not dead:
        return Check("dead_letters", "Dead letters", "ok", "none that nobody has dealt with")
    mend = "`registry-quota dead-letters list` says why; `retry` those that can be read now, `drop` others"
    found = f"{plural(dead, 'event')} could not be processed"
    return Check("dead_letters", "Dead letters", "warning", found, mend)


def _reconciliation(last: Document, now: datetime) -> Check:
    def check(state: State, found: str, mend: str = "") -> Check:
        return Check("reconciliation", "Reconciliation", state, found, mend)

    finished, running = last["last_finished_at"], last["running"]
    again = (
        "run `registry-quota reconcile`: it goes on where it stopped, and says what is in its way"
    )
    if (told := last["last_error"]) == KNOWN_CACHE:
        return check("ok", "a pull-through cache is not walked through")
    if told and not running:
        started = last.get("last_started_at")
        if finished is not None and started is not None and finished >= started:
            mend = "mend what it names; `registry-quota reconcile` then names all that is left"
            return check("warning", f"the newest pass could not read everything: {told}", mend)
        if told == str(PullThroughCache()):
            return check("warning", f"not done: {told}")
        mend = "mend what it names first; `registry-quota reconcile` then goes on where it stopped"
        return check("warning", f"the newest pass stopped: {told}", mend)
    if finished is None:
        return check("ok", "the first pass runs" if running else "the first pass is yet to come")
    since = (now - finished).total_seconds()
    found = f"last pass ended {_time(since)} ago" + (", another runs" if running else "")
    if since > _OVERDUE and not running:
        return check("warning", f"{found}: that is long", again)
    if drift := last["drift"]:
        changed = sum(item["found"] + item["corrected"] + item["forgotten"] for item in drift)
        return check(
            "warning",
            f"{found} and mended {plural(changed, 'difference')} in {_names(item['workspace'] for item in drift)}",
            "notifications were lost on the way, mostly when a registry restarted while they waited",
        )
    return check("ok", f"{found}: no drift")


def _names(names: Iterable[str], total: int | None = None) -> str:
    """The first of them, and how many more there are; `total` where not all are at hand."""
    known = list(dict.fromkeys(names))
    more = max(len(known), total or 0) - _NAMED
    return ", ".join(known[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _counters(drift: Document, now: datetime) -> Check:
    if drift["drift_bytes"] or drift["wrong_digests"]:
        names = _names(drift["workspaces"])
        return Check(
            "counters",
            "Counters",
            "failed",
            f"off by {drift['drift_bytes']} bytes in {names}",
            "`registry-quota verify` shows what differs, `registry-quota replay --swap` mends it",
        )
    counted = drift["counted_at"]
    if counted is None:
        return Check("counters", "Counters", "ok", "the first recount is yet to come")
    when = _time((now - counted).total_seconds())
    return Check("counters", "Counters", "ok", f"equal the manifests, recounted {when} ago")


def _leases(stale: list[Document], total: int, now: datetime) -> Check:
    if not stale:
        return Check("leases", "Digests in use", "ok", "every source reports in time")
    oldest = min(item["expires_at"] for item in stale)
    sources = _names((f"{item['source']} ({item['workspace']})" for item in stale), total)
    return Check(
        "leases",
        "Digests in use",
        "warning",
        f"silent past their time, so nothing is deleted there: {sources}; "
        f"the oldest for {_time((now - oldest).total_seconds())}",
        "let the source report again, or `registry-quota leases retire WORKSPACE SOURCE`",
    )


def _cleanups(cleanups: Document) -> Check:
    running, stuck = cleanups["running"], cleanups["without_owner"]
    found = f"{plural(running, 'run')} under way" if running else "none under way"
    if stuck:
        return Check(
            "cleanups",
            "Cleanups",
            "warning",
            f"{plural(len(stuck), 'run')} whose process has ended: {_names(stuck)}",
            "an API process takes them over within a minute; see its log when they stay",
        )
    return Check("cleanups", "Cleanups", "ok", found)


def _errors(recent: list[Document], total: int) -> Check:
    if not recent:
        return Check("errors", "Recent errors", "ok", "none")
    newest = recent[0]
    found = f"{plural(total, 'kind')} of them, the newest: {newest['what']}"
    listed = "they are" if total <= len(recent) else f"the newest {len(recent)} are"
    mend = f"{listed} listed below; the log of the process that is named has all of it"
    return Check("errors", "Recent errors", "warning", found, mend)
