"""Deliveries that are too large for one piece: their events become durable while they arrive.

What is held of one is the event that is just arriving and the messages on their way to Kafka. An event
longer than a record, or than there is room for, loses its long members (`registry.event_stream`): the
consumer asks the registry for what they said.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import StreamReader

from registry.event_stream import EventStream
from registry.notifications import MAX_EVENTS, BadEnvelope, TooManyEvents, sort_events
from registry.workspaces import WorkspaceRule
from runtime.logs import get_logger
from webhook_receiver.body import RECORD_BYTES, Body, BodyTimeout, Limits, pieces
from webhook_receiver.in_flight import InFlight
from webhook_receiver.messages import EXCERPT_BYTES, Arrival, Message, Reason, messages_of
from webhook_receiver.storing import Store

log = get_logger(__name__)

AT_ONCE: Final = 8
"""Large deliveries that are read at a time; the others wait, and nothing of them is held."""

PATIENCE: Final = 4.0
"""Seconds for Kafka to take a batch of theirs: who sends so much has waited longer than a registry does."""

_BATCH_BYTES: Final = 512 * 1024
_BATCH: Final = 1_000
"""Messages that go to Kafka together: fewer of them, when they are long."""


class Streams:
    """Takes large deliveries."""

    def __init__(
        self, *, workspaces: WorkspaceRule, store: Store, in_flight: InFlight, limits: Limits
    ) -> None:
        self._workspaces = workspaces
        self._store = store
        self._in_flight = in_flight
        self._limits = limits
        self._reading = 0
        self.slots: Final = asyncio.Semaphore(AT_ONCE)
        """To be held for as long as one is read."""

    async def take(
        self,
        content: StreamReader,
        begun: Body,
        arrival: Arrival,
        *,
        declared: int | None,
        problem: tuple[Reason, str] | None,
    ) -> bool:
        """Read the rest of a delivery and make it durable; whether it was read to its end.

        `problem` is why nothing of it can be taken, if that is known already: then, and when it turns
        out later, its first 64 KiB are a dead letter, behind the events that could be read.

        Raises:
            Incomplete, KafkaUnavailable: it has to be sent again; what was stored is a duplicate then.
        """
        if problem is None and declared is not None and declared > self._limits.drain_bytes:
            problem = (Reason.BODY_TOO_LARGE, f"at most {self._limits.drain_bytes} are read")
        delivery = _Delivery(arrival, begun.charged, EventStream(RECORD_BYTES), problem)
        self._reading += 1
        try:
            return await self._take(content, begun.data, delivery)
        finally:
            self._reading -= 1
            self._in_flight.give_back(delivery.charged)

    async def _take(self, content: StreamReader, first: bytes, delivery: "_Delivery") -> bool:
        started = time.monotonic()
        ended = True
        try:
            async with aclosing(pieces(content, first, self._limits.read_timeout)) as arriving:
                async for piece in arriving:
                    delivery.see(piece)
                    if delivery.seen > self._limits.drain_bytes:
                        why = f"at most {self._limits.drain_bytes} are read"
                        delivery.fail(Reason.BODY_TOO_LARGE, why)
                        ended = False
                        break
                    await self._read(piece, delivery)
        except BodyTimeout:
            # It can be answered as it is: sent again, it would be as slow, with everything behind it.
            delivery.fail(Reason.BODY_TOO_LARGE, "the rest did not arrive in time")
            ended = False
        await self._end(delivery, ended=ended)
        self._store.acknowledged(time.monotonic() - started)
        log.info(
            "large_delivery",
            source=delivery.arrival.source,
            bytes=delivery.seen,
            events=delivery.events,
            shortened=delivery.shortened,
        )
        return ended

    async def _read(self, piece: bytes, delivery: "_Delivery") -> None:
        if delivery.problem is not None:
            return
        started = time.monotonic()
        try:
            events = delivery.stream.feed(piece)
        except BadEnvelope as error:
            delivery.refuse(error)
            events = []
        self._charge(delivery)
        if self._reading > 1:
            # Several at once leave half of the time to all others.
            await asyncio.sleep(time.monotonic() - started)
        delivery.shortened += sum(event.shortened for event in events)
        try:
            await self._publish(delivery, [event.raw for event in events])
        except TooManyEvents as error:
            delivery.refuse(error)

    def _charge(self, delivery: "_Delivery") -> None:
        """Count what is held of an event; where there is no room for it, it is shortened.

        Half of the room is left to what has to be held whole.
        """
        stream = delivery.stream
        growth = stream.held - delivery.charged
        if growth > 0 and not self._in_flight.take(growth, share=0.5):
            stream.shorten()  # what is left are some 64 KiB
            growth = min(0, stream.held - delivery.charged)
        if growth < 0:
            self._in_flight.give_back(-growth)
        delivery.charged += growth

    async def _publish(self, delivery: "_Delivery", raws: Sequence[bytes]) -> None:
        """Make events durable. Raises TooManyEvents when more of them are nonsense than anybody reads."""
        delivery.events += len(raws)
        messages = messages_of(sort_events(raws), delivery.arrival, self._workspaces)
        delivery.refused += sum(message.is_dead_letter for message in messages)
        for batch in _batches(messages):
            await self._store.publish(batch, delivery.arrival.source, patience=PATIENCE)
        if delivery.refused > MAX_EVENTS:
            raise TooManyEvents(f"more than {MAX_EVENTS} of its events make no sense")

    async def _end(self, delivery: "_Delivery", *, ended: bool) -> None:
        if delivery.problem is None:
            try:
                delivery.stream.end()
            except BadEnvelope as error:
                delivery.refuse(error)
        if delivery.problem is not None:
            reason, told = delivery.problem
            size = f"{delivery.seen} bytes" if ended else f"at least {delivery.seen} bytes"
            why = f"a body of {size} (over {self._limits.max_bytes}, so it was read as a stream), "
            why += f"{delivery.events} events of it were taken: {told}"
            letter = delivery.arrival.dead_letter(
                bytes(delivery.head), reason, f"{why}; the first {len(delivery.head)} are here"
            )
            await self._store.publish([letter], delivery.arrival.source, patience=PATIENCE)


class _Delivery(msgspec.Struct):
    """One that is being read."""

    arrival: Arrival
    charged: int
    stream: EventStream
    problem: tuple[Reason, str] | None
    """Why the rest of it cannot be taken."""
    head: bytearray = msgspec.field(default_factory=bytearray)
    seen: int = 0
    events: int = 0
    shortened: int = 0
    refused: int = 0

    def see(self, piece: bytes) -> None:
        """Count what arrived; its beginning is kept."""
        self.seen += len(piece)
        self.head += piece[: max(0, EXCERPT_BYTES - len(self.head))]

    def refuse(self, error: BadEnvelope) -> None:
        """It is not what it should be."""
        many = isinstance(error, TooManyEvents)
        self.fail(Reason.TOO_MANY_EVENTS if many else Reason.NOT_AN_ENVELOPE, str(error))

    def fail(self, reason: Reason, why: str) -> None:
        """The first reason counts."""
        self.problem = self.problem or (reason, why)
        self.stream = EventStream(RECORD_BYTES)  # nothing is held of it any more


def _batches(messages: Sequence[Message]) -> list[list[Message]]:
    batches: list[list[Message]] = []
    room = 0
    for message in messages:
        if not batches or len(batches[-1]) == _BATCH or len(message.value) > room:
            batches.append([])
            room = _BATCH_BYTES
        batches[-1].append(message)
        room -= len(message.value)
    return batches
