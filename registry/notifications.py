"""Notifications as CNCF Distribution (v2.7 to v3) sends them → `registry.models.Notification`.

v2 leaves empty fields out, v3 sends them as `""` and 0; a Go client of either kind may send null:
absent, empty and null are the same here. Unknown fields (also GitLab's) are ignored.

The receiver calls `split_envelope`, the consumer `decode_event`: the first uses the second, so what
the receiver lets through the consumer can read.

Most of an event is the registry's own word, and nonsense in it is refused. Some of it is a client's
text that the registry passes on, and a push that is refused is a push that is not counted: free
text (user agent, layer types) is cleaned, and `references` that make no sense (a registry takes
manifests that declare negative sizes) are as good as none, so that the registry is asked.
"""

import uuid
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec

from registry.models import MAX_SIZE, Action, Descriptor, Notification
from registry.names import check_repository, check_tag, parse_digest
from registry.timestamps import parse_timestamp

MAX_ID_LENGTH: Final = 255
MAX_EVENTS: Final = 5_000
"""Events of one delivery. A registry sends one; so many still reach Kafka within the time-out."""

_LARGE: Final = 64 * 1024
"""Bytes from which on an event is looked at before its references are read."""
_SHORTEST_REFERENCE: Final = 24
"""Bytes, by far: a reference names a digest of 71 characters. Shorter ones are nonsense that would
take twenty times their size in memory. Braces inside of strings only mean that the registry is asked."""

_EVENT_NAMESPACE: Final = uuid.UUID("6f1f7f5e-6a0e-5c43-9d6b-1b8b4f0f2a55")
_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]


class BadEnvelope(ValueError):  # noqa: N818 - names the thing that goes to the dead letters
    """A delivery that holds no events we can tell apart. The message says why."""


class TooManyEvents(BadEnvelope):
    """A delivery of more than `MAX_EVENTS` events: none of them is read."""


class BadEvent(ValueError):  # noqa: N818 - names the thing that goes to the dead letters
    """An event that cannot be accounted for. The message says why."""


class GoodEvent(msgspec.Struct, frozen=True):
    """An event that can be processed: its bytes as the registry sent them, and what they say."""

    raw: bytes
    notification: Notification


class RefusedEvent(msgspec.Struct, frozen=True):
    """An event for the dead letters, and why. `repository` where it could be read."""

    raw: bytes
    reason: str
    repository: str | None


class Envelope(msgspec.Struct, frozen=True):
    """A delivery taken apart; each list keeps the order of the delivery.

    An event whose `references` make no sense is in both: a person should see it, and yet the push
    is a fact. Its notification comes without references.
    """

    good: list[GoodEvent]
    refused: list[RefusedEvent]


_ABSENT: Final = msgspec.Raw(b"null")


class _Urls(msgspec.Struct, gc=False, array_like=True):
    first: str | None = None  # whether there is one is all that counts: the others are skipped


class _Reference(msgspec.Struct, gc=False, rename="camel"):
    digest: str | None = None
    size: _Size | None = None
    media_type: str | None = None
    urls: _Urls | None = None


class _Target(msgspec.Struct, gc=False, rename="camel"):
    media_type: str | None = None
    digest: str | None = None
    size: _Size | None = None
    length: _Size | None = None
    repository: str | None = None
    from_repository: str | None = None
    tag: str | None = None
    references: msgspec.Raw = (
        _ABSENT  # read on its own: it is the client's, the rest the registry's
    )
    artifact_type: str | None = None


class _Request(msgspec.Struct, gc=False):
    method: str | None = None
    useragent: str | None = None


class _Source(msgspec.Struct, gc=False):
    instance_id: str | None = msgspec.field(default=None, name="instanceID")


class _Event(msgspec.Struct, gc=False):
    action: Action
    id: str | None = None
    timestamp: str | None = None
    target: _Target | None = None
    request: _Request | None = None
    source: _Source | None = None


class _Envelope(msgspec.Struct):
    events: list[msgspec.Raw] | None


# What is bounded must be so before it is built: two million elements of two bytes each take forty
# times that as objects, and msgspec looks at a list's length last of all. Of an array that becomes a
# struct it skips what has no field.
_First = msgspec.defstruct(
    "_First", [(f"_{number}", msgspec.Raw, _ABSENT) for number in range(MAX_EVENTS + 1)],
    array_like=True, gc=False,
)  # fmt: skip
_LAST_OF_FIRST: Final = _First.__struct_fields__[-1]
_FirstEvents: Final = msgspec.defstruct("_FirstEvents", [("events", _First | None)])


class _RepositoryOnly(msgspec.Struct):
    class Target(msgspec.Struct):
        repository: str

    target: Target


_event_decoder: Final = msgspec.json.Decoder(_Event)
_references_decoder: Final = msgspec.json.Decoder(list[_Reference] | None)
_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)
_first_events_decoder: Final[Any] = msgspec.json.Decoder(_FirstEvents)
_repository_decoder: Final = msgspec.json.Decoder(_RepositoryOnly)


def split_envelope(body: bytes, *, any_number: bool = False) -> Envelope:
    """Take a delivery apart: every event byte for byte, and what is wrong with those refused.

    Raises BadEnvelope when the body is not JSON or not `{"events": [...]}`, TooManyEvents when it
    holds more events than anybody should wait for, unless there is time for `any_number`. An empty
    list is fine.
    """
    try:
        if not body.isascii():
            str(body, "utf-8")  # msgspec does not look inside the strings that it skips
        events = _envelope_decoder.decode(body).events if any_number else _bounded_events(body)
    except UnicodeDecodeError as error:
        raise BadEnvelope(f"not JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise BadEnvelope("not JSON that anybody needs: nested too deeply") from None
    except msgspec.ValidationError as error:
        raise BadEnvelope(f"not an envelope of events: {error}") from None
    except msgspec.DecodeError as error:
        raise BadEnvelope(f"not JSON: {error}") from None
    if events is None:
        raise BadEnvelope("not an envelope of events: `events` is null")
    return sort_events(bytes(event) for event in events)


def sort_events(events: Iterable[bytes]) -> Envelope:
    """Events byte for byte, those that can be processed and what is wrong with the others."""
    envelope = Envelope([], [])
    for raw in events:
        try:
            if not raw.isascii():
                str(raw, "utf-8")
            notification, problem = _read(raw)
        except UnicodeDecodeError as error:
            why = f"not UTF-8 at byte {error.start}"
            envelope.refused.append(RefusedEvent(raw, why, None))
            continue
        except BadEvent as error:
            envelope.refused.append(RefusedEvent(raw, str(error), _repository_of(raw)))
            continue
        envelope.good.append(GoodEvent(raw, notification))
        if problem:
            envelope.refused.append(RefusedEvent(raw, problem, notification.repository))
    return envelope


def _bounded_events(body: bytes) -> list[msgspec.Raw] | None:
    """Counting costs nothing for what registries send: so many need a long body with many commas."""
    if len(body) < 2 * MAX_EVENTS or body.count(b",") < MAX_EVENTS:
        return _envelope_decoder.decode(body).events
    # Not read once more as a list: `events` may be there twice, and the first be the long one.
    events: Any = _first_events_decoder.decode(body).events
    if events is None:
        return None
    if getattr(events, _LAST_OF_FIRST) is not _ABSENT:
        raise TooManyEvents(f"more than {MAX_EVENTS} events in one envelope")
    return [event for event in msgspec.structs.astuple(events) if event is not _ABSENT]


def decode_event(raw: bytes) -> Notification:
    """One event as the registry sent it. Raises BadEvent.

    `references` that make no sense are left out.
    """
    return _read(raw)[0]


def _read(raw: bytes) -> tuple[Notification, str]:
    """The event, and what is wrong with its references (mostly "")."""
    try:
        event = _event_decoder.decode(raw)
        if len(raw) > _LARGE and raw.count(b"{") > len(raw) // _SHORTEST_REFERENCE:
            references, problem = None, "target.references: more of them than digests fit in"
        else:
            references, problem = _references(event.target)
        return _notification(event, references), problem
    except RecursionError:
        raise BadEvent("nested too deeply") from None
    except msgspec.ValidationError as error:
        raise BadEvent(f"not a registry notification: {_printable(str(error))}") from None
    except msgspec.DecodeError as error:
        raise BadEvent(f"not JSON: {error}") from None
    except BadEvent:
        raise
    except ValueError as error:  # the grammar's and the clock's own words
        raise BadEvent(str(error)) from None


def event_uuid(event_id: str) -> bytes:
    """16 bytes that stand for an event id: the UUID's own, else a UUID made from the text."""
    if len(event_id) == 36 and event_id[8] == event_id[13] == event_id[18] == event_id[23] == "-":
        try:
            raw = bytes.fromhex(event_id.replace("-", ""))
        except ValueError:
            raw = b""
        if len(raw) == 16:
            return raw
    return uuid.uuid5(_EVENT_NAMESPACE, event_id).bytes


def _notification(event: _Event, references: tuple[Descriptor, ...] | None) -> Notification:
    target = event.target
    if target is None:
        raise BadEvent("target is missing")
    if not event.id:
        raise BadEvent("id is missing")
    if len(event.id) > MAX_ID_LENGTH or "\x00" in event.id:
        raise BadEvent(f"id is longer than {MAX_ID_LENGTH} characters or holds NUL")
    if not event.timestamp:
        raise BadEvent("timestamp is missing")
    if not target.repository:
        raise BadEvent("target.repository is missing")
    if not target.digest and (event.action != "delete" or not target.tag):
        raise BadEvent(
            "target names neither a digest nor a tag"
            if event.action == "delete"
            else f"target.digest is missing in a {event.action}"
        )
    return Notification(
        id=event.id,
        timestamp_ns=parse_timestamp(event.timestamp),
        action=event.action,
        repository=check_repository(target.repository),
        digest=parse_digest(target.digest) if target.digest else None,
        tag=check_tag(target.tag) if target.tag else None,
        media_type=_clean(target.media_type),
        size=target.size or target.length or 0,
        from_repository=check_repository(target.from_repository)
        if target.from_repository
        else None,
        references=references,
        artifact_type=_clean(target.artifact_type) or None,
        method=_clean(event.request.method) if event.request else "",
        user_agent=_clean(event.request.useragent) if event.request else "",
        instance_id=_clean(event.source.instance_id) if event.source else "",
    )


def _references(target: _Target | None) -> tuple[tuple[Descriptor, ...] | None, str]:
    if target is None or target.references is _ABSENT:
        return None, ""
    # The hot loop of the consumer: a dozen turns an event, so calls are made only where needed.
    found: list[Descriptor] = []
    try:
        references = _references_decoder.decode(target.references)
        if references is None:
            return None, ""
        for reference in references:
            media_type = reference.media_type or ""
            if "\x00" in media_type:
                media_type = _clean(media_type)
            urls = reference.urls
            has_urls = urls is not None and urls.first is not None
            found.append(
                Descriptor(
                    parse_digest(reference.digest or ""), reference.size or 0, media_type, has_urls
                )
            )
    except ValueError as error:
        return None, f"target.references: {_printable(str(error))}"
    return tuple(found), ""


def _clean(text: str | None) -> str:
    """Free text as it may be stored: Postgres takes no NUL."""
    if not text:
        return ""
    return text.replace("\x00", "�") if "\x00" in text else text


def _repository_of(raw: bytes) -> str | None:
    """The repository of a refused event, if that much of it can be read."""
    try:
        return check_repository(_repository_decoder.decode(raw).target.repository)
    except (ValueError, RecursionError):
        return None


def _printable(reason: str) -> str:
    """A decoder's message may quote what was sent: one short line without surprises."""
    line = "".join(c if c.isprintable() else "�" for c in reason[:301])
    return line if len(reason) <= 300 else line[:300] + "…"
