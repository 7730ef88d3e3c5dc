"""Messages → durable in Kafka, counted, and told where they are dead letters."""

from collections.abc import Sequence
from typing import Final, Protocol

from runtime.logs import get_logger
from webhook_receiver.messages import Message
from webhook_receiver.metrics import ReceiverMetrics

log = get_logger(__name__)

_MOST_LINES: Final = 10
"""Dead letters stored at once that have a line each."""


class Destination(Protocol):
    """Where messages become durable (`publisher.Publisher`)."""

    async def publish(self, messages: Sequence[Message], *, patience: float = 0.0) -> list[Message]:
        """Return what was stored. Raises KafkaUnavailable."""


class Store:
    """What both ways in share."""

    def __init__(self, destination: Destination, metrics: ReceiverMetrics) -> None:
        self._destination = destination
        self._metrics = metrics

    async def publish(
        self, messages: Sequence[Message], source: str, *, patience: float = 0.0
    ) -> None:
        """Make messages of a delivery from `source` durable. Raises KafkaUnavailable."""
        stored = await self._destination.publish(messages, patience=patience)
        self._metrics.stored(stored)
        if dead := [message for message in stored if message.is_dead_letter]:
            _tell(dead, source)

    def acknowledged(self, seconds: float) -> None:
        """All of a delivery is durable, so long after its headers."""
        self._metrics.acknowledged(seconds)


def _tell(dead: Sequence[Message], source: str) -> None:
    for letter in dead[:_MOST_LINES]:
        log.warning(
            "dead_letter",
            kind=letter.label,
            reason=dict(letter.headers)["reason"].decode("utf-8", "replace"),
            workspace=(letter.key or b"").decode("utf-8", "replace"),
            source=source,
        )
    if len(dead) > _MOST_LINES:
        log.warning("dead_letters", more=len(dead) - _MOST_LINES, source=source)
