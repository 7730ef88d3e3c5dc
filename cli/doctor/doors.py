"""Our own processes: do receiver and API answer, take their tokens, and keep up."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from yarl import URL

from cli.doctor import settings as own_settings
from cli.doctor.findings import Finding, age, failed, ok, skipped, warning
from cli.doctor.kafka import Log
from runtime.settings import Settings, SettingsError
from runtime.tls import advice, client_context

_TIMEOUT: Final = aiohttp.ClientTimeout(total=8, connect=3)
_SLOW_OUTBOX: Final = 60.0
"""Seconds that a quota event may wait for its publication."""
_STALLED: Final = 60.0
"""Seconds without progress after which waiting events mean that nobody takes them."""

Status = Mapping[str, Any]
"""The document of `GET /v1/status`."""


_NO_ANSWER: Final = (aiohttp.ClientError, TimeoutError, ValueError)


async def check_receiver(settings: Settings, webhook: URL, environ: Mapping[str, str]) -> Finding:
    """`/readyz`, then an envelope without events: it is accepted and nothing comes of it."""
    start = "start it with `registry-quota serve receiver`"
    try:
        async with _session(settings) as session:
            if problem := await _not_ready(session, webhook):
                return failed("receiver", f"{webhook.origin()} {problem}", start)
            token = own_settings.webhook_token(settings, environ)
            headers = {"Authorization": f"Bearer {token}"}
            async with session.post(webhook, json={"events": []}, headers=headers) as response:
                status = response.status
    except SettingsError:
        return warning("receiver", "is ready; no token is known here to try", "see `secrets`")
    except _NO_ANSWER as error:
        return failed("receiver", f"{webhook.origin()} {_silence(error)}", start)
    if status == 202:
        return ok("receiver", f"{webhook} is ready and takes the token")
    if status == 401:
        mend = "give receiver and doctor the same RQ_WEBHOOK_TOKENS, then restart the receiver"
        return failed("receiver", f"{webhook} refuses the token", mend)
    return failed("receiver", f"{webhook} answered {status}", "see the receiver's log")


async def check_api(settings: Settings, base: URL) -> tuple[Finding, Status | None]:
    """`/readyz`, then the status with the operator's token."""
    start = "start it with `registry-quota serve api`, or correct RQ_API_URL"
    try:
        async with _session(settings) as session:
            if problem := await _not_ready(session, base):
                return failed("api", f"{base} {problem}", start), None
            headers = {"Authorization": f"Bearer {settings.required_api_token()}"}
            async with session.get(base / "v1" / "status", headers=headers) as response:
                code = response.status
                status: Status = await response.json(content_type=None)
    except SettingsError:
        return warning("api", "is ready; no token is known here to try", "see `secrets`"), None
    except _NO_ANSWER as error:
        return failed("api", f"{base} {_silence(error)}", start), None
    if code == 200:
        return ok("api", f"{base} is ready and takes the token"), status
    if code in (401, 403):
        mend = "give API and doctor the same RQ_API_TOKEN, then restart the API"
        return failed("api", f"{base} refuses the token", mend), None
    return failed("api", f"{base} answered {code} for its status", "see the API's log"), None


def _session(settings: Settings) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=client_context(settings))
    return aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector)


async def _not_ready(session: aiohttp.ClientSession, address: URL) -> str | None:
    """None when `/readyz` says yes, else what it says."""
    async with session.get(address.origin() / "readyz") as response:
        if response.status == 200:
            return None
        document = await response.json(content_type=None)
    reason = document.get("reason") if isinstance(document, dict) else None
    return f"is not ready: {reason or response.status}"


def _silence(error: Exception) -> str:
    mend = f" ({told})" if (told := advice(error)) else ""
    return f"does not answer: {str(error) or type(error).__name__}{mend}"


def judge_status(status: Status | None, log: Log | None, *, now: datetime) -> list[Finding]:
    """Whether the pipeline behind the receiver keeps up."""
    if status is None:
        why = "the API does not tell"
        return [skipped(check, why) for check in ("consumer", "sizes", "quota events", "counters")]
    return [_consumer(status, log, now), _sizes(status), _outbox(status), _counters(status)]


def _consumer(status: Status, log: Log | None, now: datetime) -> Finding:
    start = "start it with `registry-quota serve consumer`, and see its log"
    stands = {item["partition"]: item for item in status["partitions"]}
    if not stands:
        return failed("consumer", "none has ever taken a partition", start)
    moved = max(datetime.fromisoformat(item["changed_at"]) for item in stands.values())
    since = (now - moved).total_seconds()
    if log is None:
        return skipped("consumer", "Kafka does not tell what there is to record")
    waiting = sum(
        max(0, end - (stands[partition]["next_offset"] if partition in stands else 0))
        for partition, end in log.ends.items()
    )
    if waiting == 0:
        return ok("consumer", "everything that arrived is recorded")
    found = f"{waiting} events wait; the last progress was {age(since)} ago"
    if since > _STALLED:
        return failed("consumer", found, start)
    return ok("consumer", found)


def _sizes(status: Status) -> Finding:
    pending = status["sizes_pending"]
    if not pending:
        return ok("sizes", "all are known")
    noun = "manifest waits" if pending == 1 else "manifests wait"
    mend = (
        "set `notifications.events.includereferences: true` in the registry's configuration "
        "(the block below), and see that it lets us read"
    )
    return warning("sizes", f"{pending} {noun} for its size to be read from the registry", mend)


def _outbox(status: Status) -> Finding:
    waiting, seconds = status["outbox_waiting"], status["outbox_age_seconds"]
    if not waiting:
        return ok("quota events", "all are published")
    found = f"{waiting} wait for publication, the oldest for {age(seconds or 0.0)}"
    if (seconds or 0.0) < _SLOW_OUTBOX:
        return ok("quota events", found)
    mend = "see the API's log (its relay publishes them), and that it reaches Kafka"
    return failed("quota events", found, mend)


def _counters(status: Status) -> Finding:
    drift = status["drift"]
    if not drift["drift_bytes"] and not drift["wrong_digests"]:
        return ok("counters", "equal the newest recount")
    names = ", ".join(drift["workspaces"][:5])
    found = f"off by {drift['drift_bytes']} bytes in {names}"
    mend = "`registry-quota verify` shows what differs, `registry-quota replay --swap` mends it"
    return failed("counters", found, mend)


def utc_now() -> datetime:
    """The clock of this command."""
    return datetime.now(UTC)
