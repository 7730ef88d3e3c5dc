"""The loop on real Kafka and Postgres: once in effect, poison does not block, offsets are the ledger's."""

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.loop import NotificationConsumer, Ownership
from consumer.metrics import ConsumerMetrics
from consumer.wiring import kafka_consumer
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC, create_topics
from runtime.lifecycle import Stopping
from runtime.producers import open_producer
from runtime.settings import Settings
from tests.support import ledgers
from tests.support.waiting import wait_until


def settings_for(bootstrap, group=None):
    return Settings(kafka_bootstrap=bootstrap, kafka_group=group or f"test-{uuid.uuid4().hex}")


def event(repository, *, tag="1", size=100, layer=5000, action="push"):
    return {
        "id": str(uuid.uuid4()),
        "timestamp": datetime.now(UTC).isoformat(),
        "action": action,
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": f"sha256:{uuid.uuid4().hex * 2}",
            "size": size,
            "repository": repository,
            "tag": tag,
            "references": [
                {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": f"sha256:{uuid.uuid4().hex * 2}",
                    "size": layer,
                }
            ],
        },
    }


async def publish(settings, key, *values):
    producer = await open_producer(settings)
    try:
        for value in values:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            await producer.send_and_wait(NOTIFICATIONS_TOPIC, value=raw, key=key.encode())
    finally:
        await producer.stop()


@asynccontextmanager
async def consuming(settings, pool, owner="a"):
    """A consumer that runs; the topic is shared by all tests, so only one's own names count."""
    stopping = Stopping()
    producer = await open_producer(settings)
    consumer = NotificationConsumer(
        connect=lambda: kafka_consumer(settings),
        producer=producer,
        pool=pool,
        recorder=ledgers.recorder(pool),
        metrics=ConsumerMetrics(),
        stopping=stopping,
        cluster_id="test",
        owner=owner,
        batch_max_events=500,
        clock=lambda: datetime.now(UTC),
        on_pending=lambda: None,
    )
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        stopping.set("end of test")
        await task
        await producer.stop()


async def usage(pool, workspace):
    return await pool.fetchval("SELECT usage_bytes FROM workspaces WHERE name = $1", workspace)


async def test_events_are_counted_once_however_often_they_come(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    push = event(f"{workspace}/api")
    await publish(settings, workspace, push, push, push)
    async with consuming(settings, pool):
        await wait_until(lambda: usage(pool, workspace), 20)
        await publish(settings, workspace, push, event(f"{workspace}/web"))

        async def both():
            return await usage(pool, workspace) == 2 * 5100

        await wait_until(both, 20)


async def test_a_new_process_goes_on_where_the_ledger_stands(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    await publish(settings, workspace, event(f"{workspace}/api"))
    async with consuming(settings, pool, "first"):
        await wait_until(lambda: usage(pool, workspace), 20)
    epochs = await pool.fetchval("SELECT max(epoch) FROM consumer_offsets")
    await publish(settings, workspace, event(f"{workspace}/api", tag="2"))
    async with consuming(settings, pool, "second"):

        async def both():
            return await usage(pool, workspace) == 2 * 5100

        await wait_until(both, 20)
    assert await pool.fetchval("SELECT min(epoch) FROM consumer_offsets") == epochs + 1


async def test_poison_is_dead_lettered_and_what_follows_is_recorded(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    poison = b"not json " + workspace.encode()
    await publish(settings, workspace, poison, event(f"{workspace}/api"))
    async with consuming(settings, pool):
        await wait_until(lambda: usage(pool, workspace), 20)
    letter = await find_dead_letter(settings, poison)
    headers = dict(letter.headers)
    assert b"not JSON" in headers["reason"]
    assert headers["origin"].startswith(NOTIFICATIONS_TOPIC.encode() + b"/")
    assert headers["first-seen"]


async def find_dead_letter(settings, value):
    consumer = AIOKafkaConsumer(
        DEAD_LETTER_TOPIC,
        bootstrap_servers=settings.kafka_bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            async for record in consumer:
                if record.value == value:
                    return record
    finally:
        await consumer.stop()


async def test_a_stale_owner_writes_nothing_and_rejoins(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    await publish(settings, workspace, event(f"{workspace}/api"))
    async with consuming(settings, pool) as consumer:
        await wait_until(lambda: usage(pool, workspace), 20)
        # Somebody else took every partition meanwhile (as after a long freeze of this process).
        await pool.execute("UPDATE consumer_offsets SET epoch = epoch + 1, owner = 'other'")
        await publish(settings, workspace, event(f"{workspace}/api", tag="2"))

        async def both():
            return await usage(pool, workspace) == 2 * 5100

        await wait_until(both, 30)
        assert consumer.ready
    assert await pool.fetchval("SELECT count(*) FROM consumer_offsets WHERE owner = 'other'") == 0


class Seeks:
    """Records where a consumer is sent."""

    def __init__(self):
        self.to = []

    def seek(self, partition, offset):
        self.to.append((partition.partition, offset))


class Record:
    def __init__(self, offset):
        self.offset = offset


def standing_at(offset):
    consumer = object.__new__(NotificationConsumer)
    consumer._owned = {0: Ownership(epoch=1, next_offset=offset)}
    return consumer


def offsets_taken(consumer, kafka, *offsets):
    partition = TopicPartition(NOTIFICATIONS_TOPIC, 0)
    batch = consumer._in_order(kafka, {partition: [Record(offset) for offset in offsets]})
    return [record.offset for records in batch.values() for record in records]


def test_what_the_ledger_has_already_is_left_out():
    assert offsets_taken(standing_at(5), Seeks(), 3, 4, 5, 6) == [5, 6]
    assert offsets_taken(standing_at(5), Seeks(), 3, 4) == []


def test_a_gap_is_fetched_again_and_only_the_logs_own_gap_is_accepted():
    consumer, kafka = standing_at(5), Seeks()
    assert offsets_taken(consumer, kafka, 8, 9) == []
    assert kafka.to == [(0, 5)]
    assert offsets_taken(consumer, kafka, 8, 9) == [8, 9]


def test_a_partition_that_is_not_taken_over_yet_is_not_touched():
    consumer = standing_at(5)
    consumer.revoked([TopicPartition(NOTIFICATIONS_TOPIC, 0)])
    assert offsets_taken(consumer, Seeks(), 5, 6) == []
