"""Messages → Kafka: durable within a deadline, or an error at once; never a growing queue."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from runtime.lifecycle import being_cancelled
from runtime.logs import get_logger
from runtime.producers import discard_producer, open_producer
from runtime.settings import Settings
from webhook_receiver.deadlines import Deadlines
from webhook_receiver.in_flight import InFlight
from webhook_receiver.link import Link, Sent, missing_topics, weight
from webhook_receiver.messages import Message, shortened
from webhook_receiver.metrics import ReceiverMetrics

log = get_logger(__name__)

OPEN_TIMEOUT: Final = 10.0
"""Seconds that an attempt to open a producer may take."""

RETRY_PAUSE: Final = 0.25
"""Seconds from one attempt to open a producer to the next."""

EXPIRY: Final = 5.0
"""Seconds after which a message that an otherwise working producer cannot send ends that producer."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that closing may take."""

_ATTEMPTS: Final = 4
_SIZE_REFUSED: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class KafkaUnavailable(Exception):  # noqa: N818 - names what happened
    """Kafka did not take the messages in time. Some of them may be there all the same."""


class Publisher:
    """Keeps a Kafka producer and replaces it when it fails.

    An idempotent aiokafka producer neither gives a batch up nor recovers from a failed one
    (aiokafka #1101, #1017), so it is replaced: at once after a failed batch; when a message was not
    acknowledged in time and nothing else was either; and when one message is stuck while others
    pass. Messages that were given up may still arrive: consumers recognise an event by its id.
    """

    def __init__(
        self, settings: Settings, *, in_flight: InFlight, metrics: ReceiverMetrics
    ) -> None:
        self._settings = settings
        self._ack_timeout = settings.ack_timeout
        self._in_flight = in_flight
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop)
        self._link: Link | None = None
        self._problem: str | None = None
        self._wanted = asyncio.Event()  # a producer is to be opened
        self._wanted.set()
        self._known = asyncio.Event()  # there is one, or there is a problem
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect in the background, also when Kafka is away; on leaving, close within a second."""
        connecting = asyncio.create_task(self._keep_connected(), name="kafka-connect")
        try:
            yield
        finally:
            connecting.cancel()
            await self._close(connecting)

    async def publish(self, messages: Sequence[Message], *, patience: float = 0.0) -> list[Message]:
        """Return when every message is durable (acks=all): the messages as they were stored.

        Messages for one partition keep their order. One that Kafka refuses for its size is stored
        shortened as a dead letter instead. Takes at most the acknowledgement time-out, or `patience` seconds
        where that is more.

        Raises:
            KafkaUnavailable: not all are durable; the caller may send all of them again.
        """
        if not messages:
            return []
        deadline = self._loop.time() + max(self._ack_timeout, patience)
        link = self._link or await self._connected(deadline)
        stored, again = await self._send(link, messages, deadline)
        attempts = 1
        while again and attempts < _ATTEMPTS:
            link = self._link or await self._connected(deadline)
            durable, again = await self._send(link, again, deadline)
            stored += durable
            attempts += 1
        if again:
            raise KafkaUnavailable("Kafka refused the messages several times")
        return stored

    async def ready(self) -> str | None:
        """None when Kafka can be reached now, else why not."""
        link = self._link
        if link is None:
            return self._problem or "connecting to Kafka"
        return await link.ready()

    # Sending

    async def _connected(self, deadline: float) -> Link:
        """Wait for the producer that is just being opened; not for one that could not be."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._known.wait()
        except TimeoutError:
            raise KafkaUnavailable("Kafka does not answer") from None
        if self._link is None:
            raise KafkaUnavailable(self._problem or "Kafka cannot be reached")
        return self._link

    async def _send(
        self, link: Link, messages: Sequence[Message], deadline: float
    ) -> tuple[list[Message], list[Message]]:
        """One round: the messages that became durable, and those to send again.

        Raises KafkaUnavailable at the deadline.
        """
        started = self._loop.time()
        charged = sum([weight(message) for message in messages])
        if not self._in_flight.take(charged):
            raise KafkaUnavailable("too many bytes are in flight")
        sent: list[Sent] = []
        in_time = False
        try:
            await link.hand_over(messages, sent, deadline)
            await self._deadlines.all_done([future for _, future in sent], deadline)
            in_time = True
        except TimeoutError:
            pass
        except KafkaError as error:
            self._retire(link, repr(error))
            raise KafkaUnavailable(f"Kafka refused: {error!r}") from error
        finally:
            self._in_flight.give_back(charged if in_time else charged - self._hold(link, sent))
        if in_time:
            return self._sort(link, sent)
        self._sort(link, [each for each in sent if each[1].done()])
        if link.acknowledged_at < started:
            self._retire(link, "nothing is acknowledged")
        raise KafkaUnavailable("Kafka did not acknowledge in time")

    def _sort(self, link: Link, done: list[Sent]) -> tuple[list[Message], list[Message]]:
        """Those that are durable, and what to send in the place of those that failed."""
        durable: list[Message] = []
        again: list[Message] = []
        for message, future in done:
            error = future.exception()
            if error is None:
                durable.append(message)
                continue
            # The broker expects the sequence numbers of the failed batch next, aiokafka goes on
            # after them: this producer cannot send to that partition any more.
            self._retire(link, repr(error))
            short = shortened(message) if isinstance(error, _SIZE_REFUSED) else None
            again.append(short or message)
        if durable:
            link.acknowledged_at = self._loop.time()
        return durable, again

    # Giving up

    def _hold(self, link: Link, sent: list[Sent]) -> int:
        """The bytes that the producer still holds: counted until they are sent or it ends."""

        def settle(future: asyncio.Future[Any]) -> None:
            self._in_flight.give_back(link.held.pop(future, 0))
            if not future.cancelled():
                future.exception()  # nobody else may ask for it, and asyncio would complain

        held: dict[asyncio.Future[Any], int] = {}
        for message, future in sent:
            if future.done():
                settle(future)
            else:
                held[future] = held.get(future, 0) + weight(message)
        if not held:
            return 0
        for future, size in held.items():
            # Other deliveries may wait for the same one.
            link.held[future] = link.held.get(future, 0) + size
            future.add_done_callback(settle)
        self._loop.call_later(EXPIRY, self._expire, link, list(held))
        return sum(held.values())

    def _expire(self, link: Link, futures: list[asyncio.Future[Any]]) -> None:
        if not all(future.done() for future in futures):
            self._retire(link, f"messages are not acknowledged after {EXPIRY} s")

    def _retire(self, link: Link, why: str) -> None:
        if self._link is not link:
            return
        log.warning("kafka_producer_replaced", reason=why)
        self._link = None
        self._known.clear()
        self._wanted.set()
        self._end(link, after=self._ack_timeout)

    def _end(self, link: Link, *, after: float) -> None:
        task = asyncio.create_task(self._discard(link, after=after), name="kafka-discard")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _discard(self, link: Link, *, after: float) -> None:
        """End a producer after so many seconds: the time of the requests that still wait for it."""
        try:
            await asyncio.sleep(after)
        finally:
            try:
                await link.close()
            except Exception:
                log.exception("kafka_producer_not_discarded")
            finally:
                self._in_flight.give_back(sum(link.held.values()))
                link.held.clear()

    # Connecting

    async def _keep_connected(self) -> None:
        while not being_cancelled():
            await self._wanted.wait()
            started = self._loop.time()
            try:
                async with asyncio.timeout(OPEN_TIMEOUT):
                    producer = await open_producer(self._settings)
                    await self._look_up_topics(producer)
            except asyncio.CancelledError as error:
                if being_cancelled():
                    raise
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may do
                self._failed(error)
            else:
                self._opened(producer)
            await asyncio.sleep(started + RETRY_PAUSE - self._loop.time())

    def _opened(self, producer: AIOKafkaProducer) -> None:
        if self._problem is not None:
            log.info("kafka_available")
        self._problem = None
        self._metrics.producers_opened += 1
        self._link = Link(producer, self._loop)
        self._wanted.clear()
        self._known.set()

    @staticmethod
    async def _look_up_topics(producer: AIOKafkaProducer) -> None:
        """Learn the partitions before the first event needs them. Raises KafkaUnavailable."""
        try:
            problem = await missing_topics(producer)
            if problem is None:
                for topic in (NOTIFICATIONS_TOPIC, DEAD_LETTER_TOPIC):
                    await producer.partitions_for(topic)
        except BaseException:
            await discard_producer(producer)
            raise
        if problem is not None:
            await discard_producer(producer)
            raise KafkaUnavailable(problem)

    def _failed(self, error: BaseException) -> None:
        problem = str(error) or "Kafka does not answer"
        if problem != self._problem:
            log.warning("kafka_unavailable", reason=problem, error=type(error).__name__)
        self._problem = problem
        self._known.set()

    async def _close(self, connecting: asyncio.Task[None]) -> None:
        """End within CLOSE_TIMEOUT. Nothing is flushed: what was answered 202 is durable already."""
        for task in self._closing:
            task.cancel()  # ends its waiting, not its discarding
        if self._link is not None:
            self._end(self._link, after=0)
            self._link = None
        _ended, late = await asyncio.wait([connecting, *self._closing], timeout=CLOSE_TIMEOUT)
        for task in late:
            task.cancel()
