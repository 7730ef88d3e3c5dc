"""What cannot be processed goes to the dead-letter topic, with the reason, and the log moves on.

Up to a ceiling: one poisoned event is data, a thousand in a row are a bad release of ours, and that
must stop instead of emptying the whole topic into the dead letters.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord

from runtime.kafka import DEAD_LETTER_TOPIC
from runtime.producers import DURABLE_SECONDS

MAX_REASON_BYTES = 2000
_KEPT = frozenset({"source", "traceparent"})

Sent = asyncio.Future[Any]
"""A dead letter on its way."""


class TooManyDeadLettersError(Exception):
    """More events fail than pass: nothing is dead-lettered any more until a person has looked."""


class Ceiling:
    """How many more dead letters there may be.

    Each takes one of the allowance, each event that passes gives one back (up to all of it). So it
    is used up only when more events fail than pass, by `allowance`. 0: no ceiling.
    """

    def __init__(self, allowance: int) -> None:
        self._allowance = allowance
        self.used = 0

    def spend(self) -> None:
        """Count a dead letter before it is sent. Raises TooManyDeadLettersError."""
        if self._allowance and self.used >= self._allowance:
            raise TooManyDeadLettersError(
                f"{self.used} more events became dead letters than could be processed"
            )
        self.used += 1

    def give_back(self) -> None:
        """Count an event that passed."""
        self.used -= self.used > 0


def headers(record: ConsumerRecord, reason: str, now: datetime) -> list[tuple[str, bytes]]:
    """Reason, origin and time of a dead letter; what the record carried already stays."""
    received = dict(record.headers or ()).get("received-at")
    return [
        ("reason", reason.encode()[:MAX_REASON_BYTES]),
        ("origin", f"{record.topic}/{record.partition}/{record.offset}".encode()),
        ("first-seen", received or now.isoformat().encode()),
        *((name, value) for name, value in record.headers or () if name in _KEPT),
    ]


async def send_dead_letter(
    producer: AIOKafkaProducer, record: ConsumerRecord, reason: str, now: datetime
) -> Sent:
    """Hand a dead letter over; what is returned ends when it is durable (acks=all).

    Nobody waits for each: a batch of them is stored in the time of one.
    """
    sent: Sent = await producer.send(
        DEAD_LETTER_TOPIC,
        value=record.value,
        key=record.key,
        headers=headers(record, reason, now),
    )
    return sent


async def all_durable(sent: Sequence[Sent]) -> None:
    """Return when all are.

    Raises:
        KafkaError: one is not, of which the producer never recovers.
        TimeoutError: Kafka does not take them.
    """
    async with asyncio.timeout(DURABLE_SECONDS):
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
