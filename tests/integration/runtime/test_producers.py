"""A producer is ended at once, whatever its broker does (`runtime.producers`)."""

import asyncio
import time

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, ProducerClosed

from devstack.ports import free_port
from devstack.stack import Stack
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.producers import OpenBatches, discard_producer, open_producer
from runtime.settings import Settings
from tests.support.programs import frozen
from tests.support.waiting import wait_until


async def test_records_of_open_batches_are_stored_where_send_stores_them(kafka: Stack):
    producer = await open_producer(Settings(kafka_bootstrap=kafka.kafka_bootstrap))
    try:
        await producer.partitions_for(NOTIFICATIONS_TOPIC)
        batches = OpenBatches(producer)
        keys = [f"workspace-{number}".encode() for number in range(50)]
        futures = [batches.put(NOTIFICATIONS_TOPIC, key, b"put", [("a", b"b")]) for key in keys]
        # One for all records of a batch.
        assert len(set(futures)) < len(keys)
        put = [(await future).partition for future in futures if future is not None]
        sending = [await producer.send(NOTIFICATIONS_TOPIC, b"sent", key=key) for key in keys]
        sent = [await future for future in sending]
        assert put == [record.partition for record in sent]
        # A batch that is full, and a topic that is not known, are for `send` to wait for.
        full = [batches.put(NOTIFICATIONS_TOPIC, b"k", b"x" * 100_000, []) for _ in range(2)]
        assert [future is None for future in full] == [False, True]
        assert batches.put("nobody-knows", b"k", b"x", []) is None
        last = batches.put(NOTIFICATIONS_TOPIC, keys[0], b"put", [])
    finally:
        await discard_producer(producer)
    for future in (full[0], last):
        assert future is not None
        assert future.done()
        future.exception()  # stored just in time, or not
    with pytest.raises(ProducerClosed):
        batches.put(NOTIFICATIONS_TOPIC, b"k", b"x", [])


@pytest.mark.parametrize("size", [100, 8_000_000])
@pytest.mark.parametrize("seconds", [0.0, 1.5])
async def test_a_producer_whose_broker_is_frozen_is_ended_at_once(
    kafka: Stack, size: int, seconds: float, caplog: pytest.LogCaptureFixture
):
    """Also while it tries again, and with more in its socket's buffer than the broker will read."""
    before = asyncio.all_tasks()
    producer = await open_producer(
        Settings(kafka_bootstrap=kafka.kafka_bootstrap), request_timeout=0.5
    )
    await producer.send_and_wait(NOTIFICATIONS_TOPIC, b"first", key=b"a")
    pid = kafka.pid("kafka")
    assert pid is not None
    async with frozen(pid):
        futures = [
            # A partition each: a second one that finds its batch full waits for the broker.
            await producer.send(NOTIFICATIONS_TOPIC, b"x" * size, partition=number)
            for number in range(5)
        ]
        # Long enough for the client to give its first requests up and send them again.
        await asyncio.wait(futures, timeout=seconds)
        started = time.monotonic()
        await discard_producer(producer)
        took = time.monotonic() - started
        # Closed, or given up by the client itself before: all have ended, by an error of Kafka's.
        assert all(isinstance(future.exception(), KafkaError) for future in futures), futures
        with pytest.raises(ProducerClosed):
            await producer.send(NOTIFICATIONS_TOPIC, b"later", key=b"a")
    assert took < 2
    await wait_until(lambda: asyncio.all_tasks() <= before, what="no task of it is left")
    assert "Traceback" not in caplog.text
    assert "never retrieved" not in caplog.text


async def test_a_connection_that_was_closed_with_bytes_unread_holds_nobody_up(kafka: Stack):
    """As Kafka's client does when no answer came: what is left would be written to the very end."""
    producer = await open_producer(Settings(kafka_bootstrap=kafka.kafka_bootstrap))
    await producer.send_and_wait(NOTIFICATIONS_TOPIC, b"first", partition=0)
    pid = kafka.pid("kafka")
    assert pid is not None
    async with frozen(pid):
        sending = await producer.send(NOTIFICATIONS_TOPIC, b"x" * 8_000_000, partition=0)

        def unread() -> bool:
            return any(
                item._writer is not None and item._writer.transport.get_write_buffer_size()
                for item in producer.client._conns.values()
            )

        await wait_until(unread, what="the broker does not read all of it")
        for connection in producer.client._conns.values():
            connection.close()
        async with asyncio.timeout(2):
            await discard_producer(producer)
        assert isinstance(sending.exception(), KafkaError)


async def test_without_a_broker_no_producer_is_opened_and_nothing_is_left():
    before = asyncio.all_tasks()
    with pytest.raises(KafkaConnectionError):
        await open_producer(Settings(kafka_bootstrap=f"127.0.0.1:{free_port()}"))
    await wait_until(lambda: asyncio.all_tasks() <= before, what="no task of it is left")


async def test_giving_up_the_opening_leaves_nothing(kafka: Stack):
    before = asyncio.all_tasks()
    pid = kafka.pid("kafka")
    assert pid is not None
    async with frozen(pid):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await open_producer(Settings(kafka_bootstrap=kafka.kafka_bootstrap))
    await wait_until(lambda: asyncio.all_tasks() <= before, what="no task of it is left")
