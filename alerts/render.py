"""A quota event as each tool takes it: a signed webhook, Slack's text, Alertmanager's alerts. PURE."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import msgspec

from runtime.figures import percent, readable

PREFIX: Final = "io.registryquota."
QUIET: Final = frozenset({"image.recorded", "image.removed"})
"""What happens with every push: only webhooks get it unasked."""

LEVEL_STAYS: Final = timedelta(days=1)
"""Alertmanager drops an alert that nobody repeats: a level is repeated well before that, while it stands."""
_INCIDENT_STAYS: Final = timedelta(hours=1)
"""From its delivery on, so that one that comes late reaches people as well."""
_AT_ONCE: Final = 200
"""Alerts in one POST."""
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - no secret
_LEVEL_CHANGED: Final = "usage.level_changed"
_USAGE: Final = "RegistryQuotaUsage"
_LOG_BROKEN: Final = "log.broken"
_SEVERITY: Final = {
    "build.denied": "critical",
    "cleanup.insufficient": "warning",
    _LOG_BROKEN: "critical",
}


class BadEventError(ValueError):
    """A record that is no CloudEvent of ours. The message says why."""


class BadSecretError(ValueError):
    """A signing secret that is none. The message says how to make one."""


class Event(msgspec.Struct, frozen=True):
    """A CloudEvent of ours, and its bytes as they came."""

    id: str
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        """The type without prefix and version: `usage.level_changed`."""
        return self.type.removeprefix(PREFIX).rpartition(".v")[0]


class Delivery(msgspec.Struct, frozen=True):
    """What is to be POSTed."""

    event_id: str
    body: bytes
    headers: dict[str, str]


Render = Callable[[Event, bytes, datetime], Delivery]
"""(event, its bytes, now) → what is POSTed."""

_decoder = msgspec.json.Decoder(Event)


def read_event(raw: bytes | None) -> Event:
    """A record's value. Raises BadEventError."""
    try:
        event = _decoder.decode(raw or b"")
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadEventError(f"not a quota event: {error}") from error
    if not event.id or not event.id.isprintable() or len(event.id) > 255:
        raise BadEventError("not a quota event: its id cannot name it")
    return event


def webhook(secret: str) -> Render:
    """Standard Webhooks: the event itself with a summary, signed. Raises BadSecretError."""
    key = signing_key(secret)

    def render(event: Event, raw: bytes, now: datetime) -> Delivery:
        timestamp = str(int(now.timestamp()))
        body = _with_summary(event, raw)
        return Delivery(
            event.id,
            body,
            {
                "content-type": "application/cloudevents+json",
                "webhook-id": event.id,
                "webhook-timestamp": timestamp,
                "webhook-signature": sign(key, event.id, timestamp, body),
            },
        )

    return render


def _with_summary(event: Event, raw: bytes) -> bytes:
    """The event as it is, and what happened in words (`summary`, an extension of the CloudEvent)."""
    document: dict[str, Any] = msgspec.json.decode(raw)
    return msgspec.json.encode(
        document | {"summary": f"{event.subject}: {sentence(event.kind, event.data)}"}
    )


def signing_key(secret: str) -> bytes:
    """`whsec_` and base64 → the key. Raises BadSecretError."""
    try:
        key = base64.b64decode(secret.strip().removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise BadSecretError(
            "the signing secret must be 24 to 64 random bytes in base64 behind `whsec_`, "
            'e.g. "whsec_$(openssl rand -base64 32)"'
        )
    return key


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The header `webhook-signature`."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def slack(event: Event, _raw: bytes, _now: datetime, *, base: str | None = None) -> Delivery:
    """An incoming webhook's text; with `base`, the API's address, the workspace's name leads to its page."""
    text, name, link = (
        _escaped(sentence(event.kind, event.data)),
        _escaped(event.subject),
        _link(base, event),
    )
    return _json(event, {"text": f"*{name if link is None else f'<{link}|{name}>'}*: {text}"})


def alertmanager(event: Event, _raw: bytes, now: datetime, *, base: str | None = None) -> Delivery:
    """`POST /api/v2/alerts`: the alert, and the end of the one whose place it takes.

    With `base`, the API's address, an alert leads to the workspace's page (`generatorURL`).
    """
    alerts = []
    if is_level(event):
        previous = str(event.data.get("previous_level"))
        if previous not in ("ok", str(event.data.get("level"))):
            alerts.append(_alert(event, _USAGE, previous, now, None))
        if stands(event):
            alerts.append(_standing(event, now))
    else:
        name = "RegistryQuota" + "".join(
            part.capitalize() for part in event.kind.replace("_", ".").split(".")
        )
        severity = _SEVERITY.get(event.kind, "info")
        alerts.append(_alert(event, name, severity, now, _INCIDENT_STAYS))
    return _json(event, _linked(alerts, event, base))


def _linked(
    alerts: Sequence[dict[str, Any]], event: Event, base: str | None
) -> list[dict[str, Any]]:
    link = _link(base, event)
    return [alert if link is None else alert | {"generatorURL": link} for alert in alerts]


def _link(base: str | None, event: Event) -> str | None:
    """The page of a workspace, or of the pipeline for what is of none."""
    if base is None:
        return None
    page = (
        "pipeline" if event.kind == _LOG_BROKEN else f"workspaces/{quote(event.subject, safe='')}"
    )
    return f"{base}/{page}"


def repeated(events: Sequence[Event], now: datetime, *, base: str | None = None) -> list[Delivery]:
    """Levels that stand, said once more to Alertmanager, so that they go on standing there."""
    return [
        _json(
            part[0],
            [alert for event in part for alert in _linked([_standing(event, now)], event, base)],
        )
        for start in range(0, len(events), _AT_ONCE)
        if (part := events[start : start + _AT_ONCE])
    ]


def is_level(event: Event) -> bool:
    """Whether it says at what level a workspace stands."""
    return event.kind == _LEVEL_CHANGED


def stands(event: Event) -> bool:
    """Whether its level is one that people are told of for as long as it stands."""
    return event.data.get("level") != "ok"


def _standing(event: Event, now: datetime) -> dict[str, Any]:
    return _alert(event, _USAGE, str(event.data.get("level")), now, LEVEL_STAYS)


def _alert(
    event: Event, name: str, severity: str, now: datetime, stays: timedelta | None
) -> dict[str, Any]:
    """It ends so long after its delivery: of what has ended before that, nobody would be told.

    `stays` None: it has ended when the event happened.
    """
    # Clocks may differ: an alert that begins after its end is refused.
    happened = min(event.time, now)
    return {
        "labels": {"alertname": name, "workspace": event.subject, "severity": severity},
        "annotations": {"summary": sentence(event.kind, event.data), "event_id": event.id},
        "startsAt": happened.isoformat(),
        "endsAt": (happened if stays is None else now + stays).isoformat(),
    }


def sentence(kind: str, data: Mapping[str, Any]) -> str:
    """What happened, for people. `kind` is the event's type without prefix and version."""
    if kind == _LEVEL_CHANGED:
        share = _share(data, "usage_bytes", "quota_bytes")
        return (
            f"usage is {_text(data, 'level')} (was {_text(data, 'previous_level')}): {share} of the quota, "
            f"{_size(data, 'usage_bytes')} of {_size(data, 'quota_bytes')}"
        )
    if kind == "build.denied":
        return str(data.get("message") or "a build was denied")
    if kind.startswith("cleanup."):
        freed = f"cleanup freed {_size(data, 'freed_bytes')}"
        if data.get("target_reached"):
            return freed
        standing = f"{_size(data, 'usage_bytes')} of {_size(data, 'quota_bytes')} are used"
        reason = data.get("reason")
        return f"{freed}, which is not enough: {standing}" + (f"; {reason}" if reason else "")
    if kind == "image.unreadable":
        name = ", ".join(map(str, data.get("tags") or ())) or _text(data, "digest")
        why = data.get("reason") or "its registry does not say why"
        return f"{_text(data, 'repository')} ({name}) cannot be pulled: {why}; push it again"
    if kind.startswith("image."):
        tags = ", ".join(map(str, data.get("tags") or ())) or "untagged"
        return f"{kind.replace('.', ' ')}: {_text(data, 'repository')} ({tags})"
    if kind == "size.mismatch":
        return (
            f"a push declared {_size(data, 'declared_bytes')} for {_text(data, 'digest')}, "
            f"storage has {_size(data, 'stored_bytes')}"
        )
    if kind == _LOG_BROKEN:
        parts = [item for item in data.get("partitions") or () if isinstance(item, Mapping)]
        kinds = sorted({_text(item, "kind").replace("_", " ") for item in parts})
        return (
            f"{len(parts)} of its partitions do not go on where the ledger stood ({', '.join(kinds)}): "
            "what was not recorded is read, and the registry compared"
        )
    if kind == "drift.detected":
        apart = _size(data, "drift_bytes")
        if data.get("cause") == "recount":
            return f"the counter is {apart} off its manifests; `registry-quota verify` shows where"
        counts = [
            f"{data[name]} {name}" for name in ("found", "corrected", "forgotten") if data.get(name)
        ]
        return (
            f"the registry was compared: {', '.join(counts) or 'nothing'}, usage changed by {apart}"
        )
    if kind == "gc.verified":
        return (
            f"the registry's collection freed {_size(data, 'collected_bytes')} of "
            f"{_size(data, 'predicted_bytes')}; {_size(data, 'present_bytes')} are still there"
        )
    return kind.replace(".", " ").replace("_", " ")


def _text(data: Mapping[str, Any], name: str) -> str:
    return str(data.get(name) or "?")


def _size(data: Mapping[str, Any], name: str) -> str:
    size = data.get(name)
    return readable(size) if isinstance(size, int) else "?"


def _share(data: Mapping[str, Any], part: str, whole: str) -> str:
    used, of = data.get(part), data.get(whole)
    return percent(used, of) if isinstance(used, int) and isinstance(of, int) and of > 0 else "?"


def _escaped(text: str) -> str:
    """Text from outside without Slack's markup: no link, no mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _json(event: Event, document: object) -> Delivery:
    return Delivery(event.id, msgspec.json.encode(document), {"content-type": "application/json"})
