import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
)

from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from runtime.settings import MESSAGE_MAX_BYTES, Settings
from tests.support.waiting import wait_until
from webhook_receiver import link, publisher
from webhook_receiver.in_flight import InFlight
from webhook_receiver.messages import EXCERPT_BYTES, Arrival, Message
from webhook_receiver.metrics import ReceiverMetrics
from webhook_receiver.publisher import KafkaUnavailable, Publisher

ARRIVAL = Arrival("edge", 0)


def message(value: bytes = b"event", topic: str = NOTIFICATIONS_TOPIC) -> Message:
    return Message(topic, b"acme", value, ARRIVAL.headers(), "push")


class Producer:
    """What the publisher uses of a producer; the test says what becomes of each message."""

    def __init__(self, cluster: "Cluster") -> None:
        self.client = cluster
        self.sent: list[tuple[str, bytes, asyncio.Future[Any]]] = []
        self.discarded = False

    async def partitions_for(self, _topic: str) -> set[int]:
        return {0}

    async def send(
        self, topic: str, value: bytes, _key: bytes | None, *, headers: list[tuple[str, bytes]]
    ) -> asyncio.Future[Any]:
        assert headers
        if len(value) > MESSAGE_MAX_BYTES:
            raise MessageSizeTooLargeError
        if self.client.stuck:
            await asyncio.Event().wait()
        return self.take(topic, value)

    def take(
        self, topic: str, value: bytes, future: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        future = future or asyncio.get_running_loop().create_future()
        self.sent.append((topic, value, future))
        outcome = self.client.outcome(topic, value, self)
        if outcome is True:
            future.set_result(None)
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)
        return future

    def values(self) -> list[bytes]:
        return [value for _, value, _ in self.sent]

    async def discard(self) -> None:
        self.discarded = True
        for _, _, future in self.sent:
            if not future.done():
                future.set_exception(ProducerClosed())


class Batches:
    """A batch for each record, unless the test lets them share one."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer

    def put(
        self, topic: str, _key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> asyncio.Future[Any] | None:
        assert headers
        if self.producer.client.full:
            return None
        return self.producer.take(topic, value, self.producer.client.shared)


Outcome = Callable[[str, bytes, Producer], bool | Exception | None]
"""Stored, refused, or nothing for now."""


class Cluster:
    """A Kafka that takes everything, until told otherwise."""

    def __init__(self) -> None:
        self.producers: list[Producer] = []
        self.away: Exception | None = None
        self.names = {NOTIFICATIONS_TOPIC, DEAD_LETTER_TOPIC}
        self.outcome: Outcome = lambda *_: True
        self.full = self.stuck = False
        self.shared: asyncio.Future[Any] | None = None

    async def open(self, _settings: Settings) -> Producer:
        if self.away is not None:
            raise self.away
        self.producers.append(Producer(self))
        return self.producers[-1]

    async def fetch_all_metadata(self) -> "Cluster":
        if self.away is not None:
            raise self.away
        return self

    def topics(self) -> set[str]:
        return self.names


class Bench:
    """A publisher in front of such a Kafka."""

    def __init__(self, cluster: Cluster, limit: int) -> None:
        self.cluster = cluster
        self.in_flight = InFlight(limit)
        metrics = ReceiverMetrics(lambda: self.in_flight.bytes)
        self.publisher = Publisher(
            Settings(ack_timeout=0.1), in_flight=self.in_flight, metrics=metrics
        )

    async def publish(self, *messages: Message) -> list[Message]:
        return await self.publisher.publish(messages)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(publisher, "open_producer", cluster.open)
    monkeypatch.setattr(publisher, "discard_producer", Producer.discard)
    monkeypatch.setattr(link, "discard_producer", Producer.discard)
    monkeypatch.setattr(link, "OpenBatches", Batches)
    monkeypatch.setattr(publisher, "RETRY_PAUSE", 0.01)
    return cluster


@asynccontextmanager
async def bench(cluster: Cluster, limit: int = 50_000_000) -> AsyncIterator[Bench]:
    opened = Bench(cluster, limit)
    async with opened.publisher.running():
        yield opened


async def test_what_kafka_acknowledged_is_returned_and_no_longer_held(cluster: Cluster):
    async with bench(cluster) as b:
        messages = [message(b"%d" % number) for number in range(10)]
        assert await b.publish(*messages) == messages
        assert cluster.producers[0].values() == [m.value for m in messages]
        assert await b.publish() == []
        assert b.in_flight.bytes == 0
        assert await b.publisher.ready() is None
    assert [producer.discarded for producer in cluster.producers] == [True]


async def test_a_message_whose_batch_is_full_waits_for_the_next(cluster: Cluster):
    cluster.full = True
    async with bench(cluster) as b:
        assert await b.publish(message()) == [message()]
        assert cluster.producers[0].values() == [b"event"]


async def test_waiting_for_room_ends_in_time_also_when_little_is_held(cluster: Cluster):
    # As behind a batch that is being tried again: it takes no more, and holds up its partition.
    cluster.full = cluster.stuck = True
    async with bench(cluster) as b, asyncio.timeout(5):
        with pytest.raises(KafkaUnavailable):
            await b.publish(message())
        assert b.in_flight.bytes == 0


async def test_who_waits_for_room_in_a_producer_that_is_discarded_is_told_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """Its end cancels what waits for partitions: unanswered, a registry would wait."""

    async def cancelled_from_within(*_message: object, **_options: object) -> None:
        raise asyncio.CancelledError

    cluster.full = True
    async with bench(cluster) as b:
        await wait_until(lambda: cluster.producers)
        monkeypatch.setattr(cluster.producers[0], "send", cancelled_from_within)
        with pytest.raises(KafkaUnavailable):
            await b.publish(message())
        assert b.in_flight.bytes == 0


async def test_deliveries_that_share_a_batch_share_its_fate(cluster: Cluster):
    cluster.outcome = lambda *_: None
    async with bench(cluster) as b:
        cluster.shared = asyncio.get_running_loop().create_future()
        together = [asyncio.create_task(b.publish(message(), message())) for _ in range(3)]
        await wait_until(lambda: cluster.producers and len(cluster.producers[0].sent) == 6)
        cluster.shared.set_result(None)
        assert await asyncio.gather(*together) == [[message(), message()]] * 3
        assert b.in_flight.bytes == 0


async def test_deliveries_that_share_a_batch_are_all_held_until_it_is_settled(cluster: Cluster):
    cluster.outcome = lambda *_: None
    async with bench(cluster) as b:
        cluster.shared = asyncio.get_running_loop().create_future()
        together = [b.publish(message(), message()) for _ in range(3)]
        answers = await asyncio.gather(*together, return_exceptions=True)
        assert all(isinstance(answer, KafkaUnavailable) for answer in answers)
        assert b.in_flight.bytes == 6 * link.weight(message())
        cluster.shared.set_result(None)
        await wait_until(lambda: b.in_flight.bytes == 0)


async def test_without_an_acknowledgement_the_producer_is_replaced(cluster: Cluster):
    cluster.outcome = lambda *_: None
    async with bench(cluster) as b:
        with pytest.raises(KafkaUnavailable):
            await b.publish(message())
        await wait_until(lambda: len(cluster.producers) == 2)
        # What the old one holds still counts, until it is ended.
        assert b.in_flight.bytes > 0
        await wait_until(lambda: cluster.producers[0].discarded)
        await wait_until(lambda: b.in_flight.bytes == 0)
        cluster.outcome = lambda *_: True
        assert await b.publish(message())


async def test_a_late_acknowledgement_is_no_longer_held(cluster: Cluster):
    cluster.outcome = lambda *_: None
    async with bench(cluster) as b:
        with pytest.raises(KafkaUnavailable):
            await b.publish(message())
        assert b.in_flight.bytes > 0
        cluster.producers[0].sent[0][2].set_result(None)
        await wait_until(lambda: b.in_flight.bytes == 0)


async def test_one_stuck_message_among_others_ends_the_producer_only_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(publisher, "EXPIRY", 0.5)
    cluster.outcome = lambda _topic, value, _producer: True if value != b"stuck" else None
    async with bench(cluster) as b:

        async def others() -> None:
            while True:
                with suppress(KafkaUnavailable):  # while the producer is being replaced
                    await b.publish(message())
                await asyncio.sleep(0.01)

        passing = asyncio.create_task(others())
        with pytest.raises(KafkaUnavailable):
            await b.publish(message(b"stuck"))
        assert len(cluster.producers) == 1
        assert not cluster.producers[0].discarded
        await wait_until(lambda: len(cluster.producers) == 2)
        await wait_until(lambda: cluster.producers[0].discarded)
        passing.cancel()
        await asyncio.wait([passing])


async def test_part_of_a_delivery_acknowledged_is_not_the_end_of_the_producer(cluster: Cluster):
    cluster.outcome = lambda _topic, value, _producer: True if value != b"stuck" else None
    async with bench(cluster) as b:
        with pytest.raises(KafkaUnavailable):
            await b.publish(message(), message(b"stuck"))
        assert b.publisher._link is not None
        assert len(cluster.producers) == 1


async def test_after_a_failed_batch_another_producer_sends_what_failed(cluster: Cluster):
    def outcome(_topic: str, value: bytes, producer: Producer) -> bool | Exception:
        first = producer is cluster.producers[0]
        return OutOfOrderSequenceNumber() if first and value != b"1" else True

    cluster.outcome = outcome
    async with bench(cluster) as b:
        messages = [message(b"1"), message(b"2"), message(b"3")]
        assert sorted(m.value for m in await b.publish(*messages)) == [b"1", b"2", b"3"]
        assert [p.values() for p in cluster.producers] == [[b"1", b"2", b"3"], [b"2", b"3"]]
        assert b.in_flight.bytes == 0


async def test_what_always_fails_is_given_up(cluster: Cluster):
    cluster.outcome = lambda *_: OutOfOrderSequenceNumber()
    async with bench(cluster) as b:
        with pytest.raises(KafkaUnavailable):
            await b.publish(message())
        assert 1 < len(cluster.producers) < 10


@pytest.mark.parametrize("by_the_broker", [True, False])
async def test_what_is_refused_for_its_size_is_stored_short(cluster: Cluster, by_the_broker: bool):
    if by_the_broker:
        size = 200_000
        cluster.outcome = lambda _topic, value, _producer: (
            MessageSizeTooLargeError() if len(value) > 100_000 else True
        )
    else:
        size = MESSAGE_MAX_BYTES + 1
    async with bench(cluster) as b:
        stored = await b.publish(message(b"x" * size), message(b"small"))
        assert sorted((m.topic, len(m.value)) for m in stored) == [
            (NOTIFICATIONS_TOPIC, 5),
            (DEAD_LETTER_TOPIC, EXCERPT_BYTES),
        ]


async def test_while_kafka_is_away_nobody_waits(cluster: Cluster):
    cluster.away = KafkaConnectionError("no broker")
    async with bench(cluster) as b:
        await wait_until(b.publisher._known.is_set)
        started = asyncio.get_running_loop().time()
        with pytest.raises(KafkaUnavailable, match="no broker"):
            await b.publish(message())
        assert asyncio.get_running_loop().time() - started < 0.05
        assert "no broker" in str(await b.publisher.ready())
        cluster.away = None
        await wait_until(lambda: b.publisher._link is not None)
        assert await b.publish(message())
        assert await b.publisher.ready() is None


async def test_missing_topics_are_named(cluster: Cluster):
    cluster.names = {NOTIFICATIONS_TOPIC}
    async with bench(cluster) as b:
        await wait_until(b.publisher._known.is_set)
        assert DEAD_LETTER_TOPIC in str(await b.publisher.ready())
        with pytest.raises(KafkaUnavailable, match=DEAD_LETTER_TOPIC):
            await b.publish(message())


async def test_readiness_without_traffic_is_asked_of_kafka(cluster: Cluster):
    async with bench(cluster) as b:
        await wait_until(lambda: b.publisher._link is not None)
        assert await b.publisher.ready() is None
        cluster.away = KafkaConnectionError("gone")
        assert "gone" in str(await b.publisher.ready())
        cluster.away, cluster.names = None, set()
        assert NOTIFICATIONS_TOPIC in str(await b.publisher.ready())


async def test_who_asks_for_readiness_while_the_producer_is_replaced_is_answered(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    async def unanswered() -> Cluster:
        await asyncio.Event().wait()
        return cluster

    async with bench(cluster) as b:
        await wait_until(lambda: b.publisher._link is not None)
        assert b.publisher._link is not None
        monkeypatch.setattr(cluster, "fetch_all_metadata", unanswered)
        asking = asyncio.create_task(b.publisher.ready())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await b.publisher._link.close()
        assert "being replaced" in str(await asking)


async def test_what_waits_for_kafka_is_bounded(cluster: Cluster):
    cluster.outcome = lambda *_: None
    async with bench(cluster, limit=10_000) as b:
        waiting: list[Awaitable[Any]] = [
            asyncio.ensure_future(b.publish(message())) for _ in range(20)
        ]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, KafkaUnavailable) for answer in answers)
        assert sum("in flight" in str(answer) for answer in answers) == 11
        assert len(cluster.producers[0].sent) == 9


def are_done(tasks: list[asyncio.Task[Any]], count: int) -> bool:
    return sum(task.done() for task in tasks) == count


async def test_only_one_large_message_is_in_the_producer(cluster: Cluster):
    cluster.outcome = lambda _topic, value, _producer: True if len(value) < 1000 else None
    async with bench(cluster) as b:
        large = [asyncio.create_task(b.publish(message(b"x" * 500_000))) for _ in range(3)]
        await wait_until(lambda: cluster.producers and cluster.producers[0].sent)
        assert await b.publish(message())  # small ones pass
        producer = cluster.producers[0]
        for count in (1, 2, 3):
            pending = [f for _, value, f in producer.sent if len(value) > 1000 and not f.done()]
            assert len(pending) == 1
            pending[0].set_result(None)
            await wait_until(partial(are_done, large, count))


async def test_a_cancelled_delivery_is_held_until_it_is_settled(cluster: Cluster):
    cluster.outcome = lambda *_: None
    async with bench(cluster) as b:
        publishing = asyncio.create_task(b.publish(message()))
        await wait_until(lambda: cluster.producers and cluster.producers[0].sent)
        publishing.cancel()
        await asyncio.wait([publishing])
        assert b.in_flight.bytes > 0
        cluster.producers[0].sent[0][2].set_result(None)
        await wait_until(lambda: b.in_flight.bytes == 0)


async def test_closing_does_not_wait_for_what_kafka_did_not_take(cluster: Cluster):
    cluster.outcome = lambda *_: None
    async with bench(cluster) as b:
        publishing = asyncio.create_task(b.publish(message()))
        await wait_until(lambda: cluster.producers and cluster.producers[0].sent)
    assert cluster.producers[0].discarded
    with pytest.raises(KafkaUnavailable):
        await publishing
    assert b.in_flight.bytes == 0


async def test_an_opening_that_is_cancelled_from_within_is_not_the_last(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """By a library: nobody asked for the end, and no event would ever be taken again."""
    opened = 0

    async def open_producer(settings: Settings) -> Producer:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise asyncio.CancelledError
        return await cluster.open(settings)

    monkeypatch.setattr(publisher, "open_producer", open_producer)
    async with bench(cluster) as b:
        await wait_until(lambda: opened == 2)
        assert await b.publish(message()) == [message()]
