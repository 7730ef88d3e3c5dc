"""A delivery → the Kafka messages that stand for it (pure).

What cannot be processed becomes a dead letter, never an error: a registry repeats what is refused
for ever and delivers nothing behind it (registry-facts, 5).
"""

from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec

from registry.notifications import BadEnvelope, Envelope, TooManyEvents, split_envelope
from registry.timestamps import format_timestamp
from registry.workspaces import WorkspaceRule
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from runtime.tracing import HEADER

ORIGIN: Final = b"webhook"
EXCERPT_BYTES: Final = 64 * 1024
"""How much of something too large a dead letter keeps, in bytes."""

_MAX_REASON_BYTES: Final = 1024

Headers = list[tuple[str, bytes]]


class Reason(StrEnum):
    """Why something is a dead letter, as a bounded set (a metric's label)."""

    NOT_AN_ENVELOPE = "not_an_envelope"
    BAD_EVENT = "bad_event"
    TOO_MANY_EVENTS = "too_many_events"
    BODY_TOO_LARGE = "body_too_large"
    EVENT_TOO_LARGE = "event_too_large"
    CONTENT_ENCODING = "content_encoding"
    UNTRANSLATABLE = "untranslatable"


class Message(msgspec.Struct, frozen=True):
    """One Kafka message.

    `label` is what it is counted as: an event's action, or a dead letter's `Reason`.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    label: str

    @property
    def is_dead_letter(self) -> bool:
        """Whether it goes to the dead-letter topic."""
        return self.topic == DEAD_LETTER_TOPIC


class Arrival(msgspec.Struct, frozen=True):
    """Where a delivery came from (a registry's id) and when (nanoseconds since the epoch, UTC).

    `traceparent` is the context of its trace, when it has one.
    """

    source: str
    received_ns: int
    traceparent: str | None = None

    def headers(self) -> Headers:
        """Headers of a notification."""
        headers = [("received-at", self._instant()), ("source", self.source.encode())]
        if self.traceparent is not None:
            headers.append((HEADER, self.traceparent.encode()))
        return headers

    def dead_letter(
        self, value: bytes, reason: Reason, why: str, *, key: bytes | None = None
    ) -> Message:
        """`value` with the words that say why it cannot be processed."""
        headers = [
            ("reason", why.encode("utf-8", "replace")[:_MAX_REASON_BYTES]),
            ("origin", ORIGIN),
            ("first-seen", self._instant()),
            ("source", self.source.encode()),
        ]
        if self.traceparent is not None:
            headers.append((HEADER, self.traceparent.encode()))
        return Message(DEAD_LETTER_TOPIC, key, value, headers, reason.value)

    def _instant(self) -> bytes:
        seconds, fraction = divmod(self.received_ns, 1_000_000_000)
        return b"%s.%09dZ" % (_to_the_second(seconds), fraction)


def translate(body: bytes, arrival: Arrival, workspaces: WorkspaceRule) -> list[Message]:
    """Every event of a delivery: as a notification, or as a dead letter.

    Notifications carry the event's bytes as the registry sent them, in the order of the delivery,
    keyed by workspace. An event that can be processed although part of it is nonsense is both. An
    envelope of no events is no message.
    """
    try:
        envelope = split_envelope(body)
    except TooManyEvents as error:
        return [arrival.dead_letter(body, Reason.TOO_MANY_EVENTS, str(error))]
    except BadEnvelope as error:
        return [arrival.dead_letter(body, Reason.NOT_AN_ENVELOPE, str(error))]
    return messages_of(envelope, arrival, workspaces)


def messages_of(envelope: Envelope, arrival: Arrival, workspaces: WorkspaceRule) -> list[Message]:
    """The messages that stand for events: notifications first, then dead letters."""
    headers = arrival.headers()
    messages = [
        Message(
            NOTIFICATIONS_TOPIC,
            workspaces.split(event.notification.repository).workspace.encode(),
            event.raw,
            headers,
            event.notification.action,
        )
        for event in envelope.good
    ]
    for event in envelope.refused:
        name = event.repository
        key = workspaces.split(name).workspace.encode() if name is not None else None
        messages.append(arrival.dead_letter(event.raw, Reason.BAD_EVENT, event.reason, key=key))
    return messages


def shortened(message: Message) -> Message | None:
    """What stands for a message that Kafka refused for its size; None when it is short already."""
    size = len(message.value)
    if size <= EXCERPT_BYTES:
        return None
    headers = dict(message.headers)
    note = f"Kafka refused its {size} bytes as too large: the first {EXCERPT_BYTES} are here"
    reason = headers.get("reason")
    return Message(
        DEAD_LETTER_TOPIC,
        message.key,
        message.value[:EXCERPT_BYTES],
        [
            ("reason", note.encode() if reason is None else reason + b"; " + note.encode()),
            ("origin", ORIGIN),
            ("first-seen", headers.get("first-seen", headers.get("received-at", b""))),
            ("source", headers.get("source", b"")),
            *((name, value) for name, value in message.headers if name == HEADER),
        ],
        message.label if message.is_dead_letter else Reason.EVENT_TOO_LARGE.value,
    )


@lru_cache(maxsize=8)  # formatting a date is the slowest part of translating an event
def _to_the_second(seconds: int) -> bytes:
    return format_timestamp(seconds * 1_000_000_000).partition(".")[0].encode()
