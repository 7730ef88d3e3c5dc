"""Consumers on a real Kafka and Postgres, and what they consume."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer

from consumer.log_watch import look
from consumer.loop import NotificationConsumer
from consumer.metrics import ConsumerMetrics
from consumer.wiring import kafka_consumer
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.lifecycle import Stopping
from runtime.postgres import Pool
from runtime.producers import open_producer
from runtime.settings import Settings
from tests.support import ledgers
from tests.support.waiting import wait_until


def settings_for(bootstrap: str, group: str | None = None) -> Settings:
    return Settings(kafka_bootstrap=bootstrap, kafka_group=group or f"test-{uuid.uuid4().hex}")


def event(
    repository: str, *, tag: str = "1", size: int = 100, layer: int = 5000, action: str = "push"
) -> dict[str, Any]:
    """A notification's event: an image of one blob, `size` + `layer` bytes that nobody shares."""
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


async def publish(settings: Settings, key: str, *values: dict[str, Any] | bytes) -> None:
    """Put events into the topic, one after another."""
    producer = await open_producer(settings)
    try:
        for value in values:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            await producer.send_and_wait(NOTIFICATIONS_TOPIC, value=raw, key=key.encode())
    finally:
        await producer.stop()


@asynccontextmanager
async def consuming(
    settings: Settings,
    pool: Pool,
    owner: str = "a",
    *,
    cluster: str = "test",
    batch_max_events: int = 500,
    dead_letter_ceiling: int = 0,
) -> AsyncIterator[NotificationConsumer]:
    """A consumer that runs; the topic is shared by all tests, so only one's own names count."""
    stopping = Stopping()
    producer = await open_producer(settings)
    consumer = NotificationConsumer(
        connect=partial(kafka_consumer, settings),
        producer=producer,
        pool=pool,
        recorder=ledgers.recorder(pool),
        metrics=ConsumerMetrics(),
        stopping=stopping,
        cluster_id=cluster,
        owner=owner,
        batch_max_events=batch_max_events,
        dead_letter_ceiling=dead_letter_ceiling,
        clock=lambda: datetime.now(UTC),
        on_pending=lambda: None,
        look=partial(look, settings),
    )
    task = asyncio.create_task(consumer.run(), name="consumer")
    try:
        yield consumer
    finally:
        stopping.set("end of test")
        try:
            await task
        finally:
            await producer.stop()


async def usage(pool: Pool, workspace: str) -> int | None:
    found: int | None = await pool.fetchval(
        "SELECT usage_bytes FROM workspaces WHERE name = $1", workspace
    )
    return found


async def topic_ends(settings: Settings) -> dict[int, int]:
    """Partition → offset behind the last record of the notifications."""
    consumer = AIOKafkaConsumer(NOTIFICATIONS_TOPIC, bootstrap_servers=settings.kafka_bootstrap)
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        return {partition.partition: end for partition, end in ends.items()}
    finally:
        await consumer.stop()


async def caught_up(settings: Settings, pool: Pool, *, cluster: str = "test") -> None:
    """Return when the ledger has all that the topic has now."""
    ends = await topic_ends(settings)

    async def stands() -> bool:
        rows = await pool.fetch(
            "SELECT partition, next_offset FROM consumer_offsets WHERE cluster_id = $1", cluster
        )
        positions = {row["partition"]: row["next_offset"] for row in rows}
        return all(positions.get(number, 0) >= end for number, end in ends.items())

    await wait_until(stands, 60, interval=0.05, what="the ledger catches up with the topic")


async def begin_at_the_end(settings: Settings, pool: Pool, *, cluster: str) -> None:
    """An empty ledger that takes nothing of what other tests have put into the topic."""
    for number, end in (await topic_ends(settings)).items():
        await pool.execute(
            "INSERT INTO consumer_offsets (cluster_id, topic, partition, epoch, next_offset, owner)"
            " VALUES ($1, $2, $3, 1, $4, 'test')",
            cluster,
            NOTIFICATIONS_TOPIC,
            number,
            end,
        )
