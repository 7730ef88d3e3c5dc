"""A dead letter, and the messages that stand for it once it can be processed. PURE."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from registry.notifications import (
    BadEnvelope,
    BadEvent,
    Envelope,
    decode_event,
    split_envelope,
)
from registry.timestamps import parse_timestamp
from registry.workspaces import WorkspaceRule
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.settings import DEFAULT_REGISTRY
from webhook_receiver.messages import ORIGIN, Arrival, Message, Reason

_ID: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,18})")


class StillBadError(Exception):
    """It cannot be processed now, either. The message says why."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A record of the dead-letter topic. Text in headers came from outside."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    size: int
    """Bytes of the value, also where it was left out."""
    reason: str
    origin: str
    """`webhook`, or topic/partition/offset of the event that the consumer put aside."""
    first_seen: str
    source: str
    """The id of the registry that sent it."""
    stored_ms: int
    """When Kafka took it: milliseconds since the epoch."""

    @property
    def id(self) -> str:
        """How people name it: PARTITION-OFFSET."""
        return f"{self.partition}-{self.offset}"

    @property
    def workspace(self) -> str:
        """The workspace that it is about, "" where that could not be read."""
        return (self.key or b"").decode(errors="replace")


def parse_id(text: str) -> tuple[int, int]:
    """`3-17` → (partition, offset). Raises ValueError."""
    match = _ID.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no dead letter's id: those look like 3-17 (see the list)")
    return int(match[1]), int(match[2])


def dead_letter(
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes]],
    stored_ms: int,
) -> DeadLetter:
    """A record as it came from Kafka; headers may be missing."""
    named = {name: bytes(content).decode(errors="replace") for name, content in headers}
    return DeadLetter(
        partition,
        offset,
        key,
        value or b"",
        len(value or b""),
        named.get("reason", ""),
        named.get("origin", ""),
        named.get("first-seen", ""),
        named.get("source", "") or DEFAULT_REGISTRY,
        stored_ms,
    )


def messages_for(letter: DeadLetter, workspaces: WorkspaceRule) -> list[Message]:
    """What to publish in its place: its events as the registry sent them.

    An event of a body that is still nonsense becomes a dead letter of its own. Raises StillBadError
    when nothing of it can be processed.
    """
    arrival = Arrival(letter.source, _received_ns(letter))
    envelope, is_body = _opened(letter)
    if not envelope.good or (envelope.refused and not is_body):
        # The event itself was counted when it came; only its references are beyond reading.
        why = envelope.refused[0].reason if envelope.refused else "it holds no events"
        raise StillBadError(why)

    def key(repository: str) -> bytes:
        return workspaces.split(repository).workspace.encode()

    sent = [
        Message(
            NOTIFICATIONS_TOPIC,
            key(event.notification.repository),
            event.raw,
            arrival.headers(),
            event.notification.action,
        )
        for event in envelope.good
    ]
    sent += [
        arrival.dead_letter(
            event.raw,
            Reason.BAD_EVENT,
            event.reason,
            key=key(event.repository) if event.repository else None,
        )
        for event in envelope.refused
    ]
    return sent


def _opened(letter: DeadLetter) -> tuple[Envelope, bool]:
    """Its events, and whether it is a whole body."""
    as_body = ""
    if letter.origin == ORIGIN.decode():
        try:
            return split_envelope(letter.value, any_number=True), True
        except BadEnvelope as error:
            as_body = str(error)
    # The receiver puts a single event aside when the others of its body are fine.
    try:
        decode_event(letter.value)
    except BadEvent as error:
        raise StillBadError(as_body if as_body.startswith("not JSON") else str(error)) from None
    return split_envelope(b'{"events":[' + letter.value + b"]}"), False


def _received_ns(letter: DeadLetter) -> int:
    try:
        return parse_timestamp(letter.first_seen)
    except ValueError:
        return letter.stored_ms * 1_000_000
