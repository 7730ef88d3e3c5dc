"""A consumer is ended whole whatever its connections do, and what fails beside it is heard."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from devstack.stack import Stack
from runtime.consumers import ClientEndedError, GroupMember, end_consumer
from runtime.kafka import NOTIFICATIONS_TOPIC, connection_options, cut
from runtime.settings import Settings
from tests.support.programs import frozen
from tests.support.waiting import wait_until


async def nothing(_partitions: list[TopicPartition]) -> None:
    pass


@asynccontextmanager
async def joined(
    kafka: Stack, assigned: Callable[[list[TopicPartition]], Awaitable[None]] = nothing
) -> AsyncIterator[tuple[AIOKafkaConsumer, GroupMember]]:
    """A member of a new group that has its partitions; nothing of it is left at the end."""
    before = asyncio.all_tasks()
    settings = Settings(kafka_bootstrap=kafka.kafka_bootstrap)
    consumer = AIOKafkaConsumer(
        **connection_options(settings), group_id=uuid.uuid4().hex, enable_auto_commit=False
    )
    member = GroupMember(consumer, assigned=assigned, revoked=lambda _partitions: None)
    await consumer.start()
    member.subscribe(NOTIFICATIONS_TOPIC)
    await wait_until(consumer.assignment, 30, what="the group gives it its partitions")
    try:
        yield consumer, member
    finally:
        await end_consumer(consumer, within=0.5)
        await wait_until(lambda: asyncio.all_tasks() <= before, what="no task of it is left")
        assert not any(item.connected() for item in consumer._client._conns.values())


async def test_a_consumer_is_ended_while_its_fetch_waits_for_another_attempt(
    kafka: Stack, caplog: pytest.LogCaptureFixture
):
    """`stop` raises a CancelledError then, which looked like the end of whoever called it."""
    pid = kafka.pid("kafka")
    assert pid is not None
    async with joined(kafka) as (consumer, _member):
        consumer._fetcher._retry_backoff = 600.0

        def fetching() -> bool:
            return "_proc_fetch_request" in repr(consumer._fetcher._pending_tasks)

        await wait_until(fetching, 30, what="it knows where to begin")
        async with frozen(pid):
            await wait_until(fetching, what="a fetch is under way")
            lost = cut(consumer._client)
            await wait_until(lambda: not any(item.connected() for item in lost), what="it is lost")
    assert "never retrieved" not in caplog.text


async def test_a_consumer_whose_broker_is_frozen_is_ended_soon(
    kafka: Stack, caplog: pytest.LogCaptureFixture
):
    pid = kafka.pid("kafka")
    assert pid is not None
    async with joined(kafka) as (consumer, _member), frozen(pid):
        started = time.monotonic()
        await end_consumer(consumer, within=0.5)
        assert time.monotonic() - started < 5, "its client waits for 40 s"
    assert "never retrieved" not in caplog.text


async def test_whoever_ends_a_consumer_can_be_cancelled_and_leaves_nothing(kafka: Stack):
    pid = kafka.pid("kafka")
    assert pid is not None
    async with joined(kafka) as (consumer, _member), frozen(pid):
        ending = asyncio.create_task(end_consumer(consumer, within=60))
        await asyncio.wait([ending], timeout=0.2)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending


async def test_who_cannot_take_its_partitions_over_is_told_so(kafka: Stack):
    """Kafka's client only logs it: the group would wait for somebody who reads nothing."""

    async def fails(_partitions: list[TopicPartition]) -> None:
        raise LookupError("where do these begin?")

    async with joined(kafka, assigned=fails) as (_consumer, member):

        async def told() -> bool:
            try:
                await member.poll(timeout_ms=10, max_records=1)
            except LookupError:
                return True
            return False

        await wait_until(told, 10)


@pytest.mark.parametrize(
    ("own_task", "told"),
    [
        (lambda client: client._fetcher._fetch_task, "fetching"),
        (lambda client: client._coordinator._coordination_task, "following its group"),
        (lambda client: client._client._sync_task, "following the brokers"),
    ],
)
async def test_whose_client_has_lost_a_part_of_itself_is_told_so(
    kafka: Stack, own_task: Callable[[AIOKafkaConsumer], "asyncio.Task[None]"], told: str
):
    """It would fetch nothing any more, or not hear of a rebalance, or find no broker again."""
    async with joined(kafka) as (consumer, member):
        task = own_task(consumer)
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(ClientEndedError, match=f"stopped {told}"):
            await member.poll(timeout_ms=10, max_records=1)


async def test_who_stands_in_a_rebalance_is_told_that_its_client_follows_the_group_no_more(
    kafka: Stack,
):
    """The end of that rebalance nobody would ever tell it."""
    async with joined(kafka) as (consumer, member):
        consumer._subscription.begin_reassignment()
        polling = asyncio.create_task(member.poll(timeout_ms=10, max_records=1))
        await asyncio.wait([polling], timeout=0.1)
        assert not polling.done()
        consumer._coordinator._coordination_task.cancel()
        await asyncio.wait([polling], timeout=2)
        assert isinstance(polling.exception(), ClientEndedError)


async def test_what_is_written_to_a_connection_just_lost_is_told_as_its_loss(kafka: Stack):
    """On uvloop, too, where that is a RuntimeError: tasks of Kafka's client would end by it."""

    settings = Settings(kafka_bootstrap=kafka.kafka_bootstrap)

    async def write_until_lost() -> str:
        client = AIOKafkaClient(**connection_options(settings))
        await client.bootstrap()
        try:
            (node,) = {broker.nodeId for broker in client.cluster.brokers()}
            assert await client.ready(node)
            (connection,) = (item for (at, _), item in client._conns.items() if at == node)
            connection._writer.transport.abort()
            for _turn in range(100):  # whichever turn of the loop the write comes at
                try:
                    answer = connection.send(MetadataRequest([]))
                except KafkaConnectionError:
                    return "lost"
                answer.close()
                await asyncio.sleep(0)
            return "never noticed"
        finally:
            await client.close()

    assert await asyncio.to_thread(uvloop.run, write_until_lost()) == "lost"
