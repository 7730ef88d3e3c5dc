# ruff: noqa: SLF001 - aiokafka has no public way to end a producer without flushing it, nor to share a future
"""Kafka producers: opened as every sender of ours needs them, and ended when their broker is gone."""

import asyncio
import copy
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerClosed
from aiokafka.partitioner import DefaultPartitioner

from runtime.kafka import connection_options, cut, start
from runtime.lifecycle import end
from runtime.settings import MESSAGE_MAX_BYTES, Settings

BATCH_BYTES = 128 * 1024
"""Records of one partition that share a request; a larger record travels alone."""

REQUEST_TIMEOUT = 2.0
"""Seconds that a producer waits for a broker's answer before it opens the connection anew."""

DURABLE_SECONDS = 30.0
"""After which whoever waits for a producer gives it up: an idempotent one may wait for ever (aiokafka #1101)."""

_MOST_PLACES = 10_000
"""Keys whose partition is remembered."""


async def open_producer(
    settings: Settings, *, request_timeout: float = REQUEST_TIMEOUT
) -> AIOKafkaProducer:
    """Start a producer: acks=all, idempotent, no linger, keys to partitions as the Java client does.

    Waits without an end while no broker gives it a producer id: bound it from outside. One batch
    that failed makes an idempotent producer useless, because aiokafka does not take the sequence
    number back; one that cannot be sent is kept for ever (aiokafka #1101, #1017). In both cases
    end it by `discard_producer` and open another.

    Raises:
        KafkaError: no broker answered at the configured addresses.
    """
    producer = AIOKafkaProducer(
        **connection_options(settings),
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        max_request_size=MESSAGE_MAX_BYTES,
        request_timeout_ms=int(request_timeout * 1000),
        retry_backoff_ms=50,
        metadata_max_age_ms=60_000,
    )
    try:
        await start(producer, settings)
    except BaseException:
        await discard_producer(producer)
        raise
    return producer


class OpenBatches:
    """The batches that a producer is filling: what `producer.send` does, at a third of its cost.

    The records of a batch are durable together, so they share its future; and a key's partition is
    worked out once (`send` does it in Python for every record).
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        """Of a started producer."""
        self._accumulator = producer._message_accumulator
        self._cluster = producer.client.cluster
        self._partition = DefaultPartitioner()
        self._places: dict[tuple[str, bytes], TopicPartition] = {}
        # A topic may get more partitions while we run: every look at the cluster counts.
        self._cluster.add_listener(lambda _cluster: self._places.clear())

    def put(
        self, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> asyncio.Future[Any] | None:
        """Add a record; the future is done when it is durable, and is that of others, too: never to be cancelled.

        None when that needs to wait (for room, or for the partitions of a topic): `producer.send` does.

        Raises:
            KafkaError: the producer takes no more.
        """
        accumulator = self._accumulator
        if accumulator._closed:
            raise ProducerClosed
        if accumulator._exception is not None:
            raise copy.copy(accumulator._exception)
        place = self._places.get((topic, key)) or self._place(topic, key)
        if place is None:
            return None
        waiting = accumulator._batches.get(place)
        if waiting:
            batch = waiting[-1]
        else:
            batch = accumulator._append_batch(accumulator.create_builder(), place)
        if batch._builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            return None
        future: asyncio.Future[Any] = batch.future
        return future

    def _place(self, topic: str, key: bytes) -> TopicPartition | None:
        partitions = sorted(self._cluster.partitions_for_topic(topic) or ())
        if not partitions:
            return None
        if len(self._places) >= _MOST_PLACES:
            self._places.clear()
        place = TopicPartition(topic, self._partition(key, partitions, partitions))
        self._places[topic, key] = place
        return place


async def discard_producer(producer: AIOKafkaProducer) -> None:
    """End a producer at once; what it had not sent yet fails with `ProducerClosed`.

    `producer.stop()` flushes first and so waits for ever when the broker is gone, and closing a
    connection waits until a peer that reads nothing has read everything.
    """
    client, sender, accumulator = producer.client, producer._sender, producer._message_accumulator
    producer._closed = accumulator._closed = True
    task = sender.sender_task
    try:
        cut(client)
        await client.close()
        # Whoever waits for fresh metadata would wait for ever: the task that fetches it is gone.
        update = client._md_update_fut
        if update is not None and not update.done():
            update.cancel()
        # The first cancellation makes the sender wait for its open requests, the next ones end those.
        if task is not None:
            await end([task], putting_away=0.05)
    finally:
        # The sender may have opened one anew before it ended.
        for connection in cut(client):
            connection.close()
        # Also those that wait to be sent again: aiokafka looks for every failed one among these.
        for batches in accumulator._batches.values():
            accumulator._pending_batches.update(batches)
        accumulator.fail_all(ProducerClosed())
        for batch in accumulator._pending_batches:
            # Nobody waits for room in it any more, and an error that nobody asks for is logged.
            batch._drain_waiter.exception()
