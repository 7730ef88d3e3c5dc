"""One Kafka producer in use: what goes into it, what it still holds, whether its broker answers."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed

from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from runtime.lifecycle import being_cancelled
from runtime.producers import BATCH_BYTES, OpenBatches, discard_producer
from webhook_receiver.messages import Message, shortened

MESSAGE_OVERHEAD: Final = 1024
"""Bytes that a message is counted with beyond its value: its objects while it waits."""

FRESH: Final = 2.0
"""Seconds for which an acknowledgement proves that Kafka can be reached."""

PROBE_TIMEOUT: Final = 1.0
"""Seconds that Kafka has to answer a question for its metadata."""

Sent = tuple[Message, asyncio.Future[Any]]
"""A message in the producer, and the acknowledgement to come: of its batch, so of others, too."""


def weight(message: Message) -> int:
    """Bytes that a message counts for while it is in flight."""
    return len(message.value) + MESSAGE_OVERHEAD


class Link:
    """A started producer.

    `acknowledged_at` is the loop's time of its last acknowledgement. `held` are the acknowledgements
    (and the weights of their messages) whose requests were given up while the producer still tries.
    """

    def __init__(self, producer: AIOKafkaProducer, loop: asyncio.AbstractEventLoop) -> None:
        self.acknowledged_at = 0.0
        self.held: dict[asyncio.Future[Any], int] = {}
        self._producer = producer
        self._batches = OpenBatches(producer)
        self._loop = loop
        self._probe: asyncio.Task[str | None] | None = None
        # aiokafka puts everything that waits for a broker into one request, and a broker cuts the
        # connection of one above its socket.request.max.bytes: again and again, as the request is
        # repeated as it was. So at most one message that does not share a batch is in it.
        self._large = asyncio.Lock()

    async def hand_over(
        self, messages: Sequence[Message], sent: list[Sent], deadline: float
    ) -> None:
        """Put the messages into the producer in order; `sent` grows as it goes.

        One that is larger than any Kafka message may be goes in shortened, as a dead letter.

        Raises:
            TimeoutError: there was no room for one until `deadline` (the loop's time).
            KafkaError: the producer does not take one.
        """
        for message in messages:
            try:
                future = self._put(message)
                if future is None:
                    future = await self._send(message, deadline)
                sent.append((message, future))
            except MessageSizeTooLargeError:
                short = shortened(message)
                if short is None:
                    raise
                sent.append((short, await self._send(short, deadline)))

    def _put(self, message: Message) -> asyncio.Future[Any] | None:
        if message.key is None or len(message.value) > BATCH_BYTES:
            return None
        return self._batches.put(message.topic, message.key, message.value, message.headers)

    async def _send(self, message: Message, deadline: float) -> asyncio.Future[Any]:
        """Wait for what it needs: room in a batch, a topic's partitions, another large message."""
        async with asyncio.timeout_at(deadline):
            try:
                if len(message.value) > BATCH_BYTES:
                    return await self._send_large(message)
                return await self._sending(message)
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                # Who waits for partitions when the producer is discarded: see `discard_producer`.
                raise ProducerClosed from None

    def _sending(self, message: Message) -> Awaitable[asyncio.Future[Any]]:
        sending: Awaitable[asyncio.Future[Any]] = self._producer.send(
            message.topic, message.value, message.key, headers=message.headers
        )
        return sending

    async def _send_large(self, message: Message) -> asyncio.Future[Any]:
        await self._large.acquire()
        try:
            future = await self._sending(message)
        except BaseException:
            self._large.release()
            raise
        future.add_done_callback(lambda _: self._large.release())
        return future

    async def ready(self) -> str | None:
        """None when Kafka can be reached now, else why not.

        A recent acknowledgement proves it; without one Kafka is asked, once for all who wait.
        """
        if self._loop.time() - self.acknowledged_at < FRESH:
            return None
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask(), name="kafka-probe")
        probe = self._probe
        await asyncio.wait([probe])
        return "the connection to Kafka is being replaced" if probe.cancelled() else probe.result()

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return await missing_topics(self._producer)
        except (TimeoutError, KafkaError) as error:
            return f"Kafka does not answer: {error!r}"

    async def close(self) -> None:
        """End the producer at once; what it had not sent yet fails."""
        if self._probe is not None:
            self._probe.cancel()
        await discard_producer(self._producer)


async def missing_topics(producer: AIOKafkaProducer) -> str | None:
    """Ask Kafka whether our topics are there: None, or a sentence that names those missing.

    Raises:
        KafkaError: no broker answered.
    """
    cluster = await producer.client.fetch_all_metadata()
    missing = {NOTIFICATIONS_TOPIC, DEAD_LETTER_TOPIC} - cluster.topics()
    if not missing:
        return None
    return (
        f"Kafka shows us no {', '.join(sorted(missing))}: `registry-quota migrate` makes them, and where "
        "Kafka has ACLs this user needs the right to write there"
    )
