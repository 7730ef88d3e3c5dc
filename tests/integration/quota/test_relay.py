"""Quota events reach Kafka once each, in order per workspace, also after a relay that died between."""

import asyncio
import json
import uuid
from datetime import UTC, datetime

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer

from ledger import outbox
from ledger.outbox import QuotaEvent
from quota.metrics import QuotaMetrics
from quota.relay import Relay
from runtime.kafka import QUOTA_EVENTS_TOPIC, create_topics
from runtime.lifecycle import Stopping
from runtime.producers import discard_producer, open_producer
from runtime.settings import Settings


def utc_now():
    return datetime.now(UTC)


async def announce(pool, workspace, numbers):
    async with pool.acquire() as connection, connection.transaction():
        await outbox.add_events(
            connection,
            [QuotaEvent(1, workspace, outbox.IMAGE_RECORDED, {"n": number}) for number in numbers],
            now=utc_now(),
            new_id=uuid.uuid4,
        )


def relay(database_url, settings, stopping):
    return Relay(
        connect=lambda: asyncpg.connect(database_url),
        open_producer=lambda: open_producer(settings),
        stopping=stopping,
        clock=utc_now,
        metrics=QuotaMetrics(),
    )


async def published(settings, workspace, *, until):
    """Events of a workspace in the order of the topic, until there are so many different ones."""
    consumer = AIOKafkaConsumer(
        QUOTA_EVENTS_TOPIC,
        bootstrap_servers=settings.kafka_bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    found: list[dict[str, object]] = []
    try:
        async with asyncio.timeout(20):
            async for record in consumer:
                event = json.loads(record.value)
                if event["subject"] == workspace:
                    assert record.key == workspace.encode()
                    found.append(event)
                    if len({item["id"] for item in found}) == until:
                        return found
    finally:
        await consumer.stop()
    raise AssertionError("unreachable")


async def test_every_event_is_published_in_order_as_a_cloud_event(
    pool, database_url, kafka_bootstrap
):
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    workspace, stopping = f"w{uuid.uuid4().hex[:8]}", Stopping()
    task = asyncio.create_task(relay(database_url, settings, stopping).run())
    for first in range(0, 60, 20):
        await announce(pool, workspace, range(first, first + 20))
    events = await published(settings, workspace, until=60)
    stopping.set("end of test")
    await task
    assert [event["data"]["n"] for event in events] == list(range(60))
    assert events[0].keys() >= {"specversion", "id", "source", "type", "subject", "time", "data"}
    assert events[0]["source"] == "/registry-quota"


async def test_a_relay_that_died_before_marking_publishes_again_under_the_same_id(
    pool, database_url, kafka_bootstrap
):
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    await announce(pool, workspace, range(3))
    producer = await open_producer(settings)
    dying = relay(database_url, settings, Stopping())
    async with pool.acquire() as connection, connection.transaction():
        await dying.publish_some(connection, producer)
        await connection.execute(
            "UPDATE outbox SET published_at = NULL"
        )  # its mark was never committed
    await discard_producer(producer)
    stopping = Stopping()
    task = asyncio.create_task(relay(database_url, settings, stopping).run())
    await announce(pool, workspace, [3])
    events = await published(settings, workspace, until=4)
    stopping.set("end of test")
    await task
    assert [event["data"]["n"] for event in events] == [0, 1, 2, 0, 1, 2, 3]
    assert len({event["id"] for event in events}) == 4


@pytest.mark.promise("published")
async def test_what_took_its_numbers_first_and_commits_last_is_published(
    pool, database_url, kafka_bootstrap, promise
):
    """Writers side by side: whoever goes on from the highest number seen loses the slow one's."""
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    slow, quick = (f"w{uuid.uuid4().hex[:8]}" for _ in range(2))
    stopping = Stopping()
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        events = [QuotaEvent(1, slow, outbox.IMAGE_RECORDED, {"n": n}) for n in range(3)]
        await outbox.add_events(connection, events, now=utc_now(), new_id=uuid.uuid4)
        await announce(pool, quick, range(3))
        task = asyncio.create_task(relay(database_url, settings, stopping).run())
        await published(settings, quick, until=3)
        await transaction.commit()
    late = await published(settings, slow, until=3)
    stopping.set("end of test")
    await task
    numbers = await pool.fetch("SELECT workspace FROM outbox ORDER BY id")
    assert [row["workspace"] for row in numbers] == [slow] * 3 + [quick] * 3
    promise.count("committed after later ones", len(late))
    assert [event["data"]["n"] for event in late] == [0, 1, 2]


@pytest.mark.promise("published")
async def test_an_event_larger_than_a_message_is_shortened_and_holds_up_no_other(
    pool, database_url, kafka_bootstrap
):
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    workspace, stopping = f"w{uuid.uuid4().hex[:8]}", Stopping()
    image = {"repository": "acme/api", "tags": ["x" * 128] * 300, "freed_bytes": 1}
    async with pool.acquire() as connection, connection.transaction():
        large = {"run_id": "r", "images": [image] * 300, "n": 0}
        await outbox.add_events(
            connection,
            [
                QuotaEvent(1, workspace, outbox.CLEANUP_FINISHED, large),
                QuotaEvent(1, workspace, outbox.IMAGE_RECORDED, {"n": 1}),
            ],
            now=utc_now(),
            new_id=uuid.uuid4,
        )
    task = asyncio.create_task(relay(database_url, settings, stopping).run())
    first, second = await published(settings, workspace, until=2)
    stopping.set("end of test")
    await task
    assert first["shortened"] is True
    assert first["data"]["run_id"] == "r"
    assert len(first["data"]["images"]) == 100
    assert second["data"] == {"n": 1}
    assert "shortened" not in second


async def test_only_one_relay_leads(database_url):
    first, second = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        assert await outbox.try_lead(first)
        assert not await outbox.try_lead(second)
        await first.close()
        for _ in range(200):
            if await outbox.try_lead(second):
                return
        raise AssertionError("the lead was not let go")
    finally:
        await second.close()


async def test_a_producer_that_takes_nothing_makes_room_for_another(
    pool, database_url, kafka_bootstrap, monkeypatch
):
    """As one that waits for what it will never know: all quota events would wait with it."""
    monkeypatch.setattr("quota.relay.DURABLE_SECONDS", 0.2)
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    workspace, stopping = f"w{uuid.uuid4().hex[:8]}", Stopping()
    opened = 0

    async def open_one():
        nonlocal opened
        opened += 1
        if opened == 1:
            await asyncio.Event().wait()  # no broker gives it an id
        producer = await open_producer(settings)
        if opened == 2:
            monkeypatch.setattr(producer, "send", lambda *_sent, **_as: asyncio.Event().wait())
        return producer

    relay_of = relay(database_url, settings, stopping)
    relay_of._open_producer = open_one
    monkeypatch.setattr("quota.relay._RETRY_SECONDS", 0.05)
    task = asyncio.create_task(relay_of.run())
    await announce(pool, workspace, range(3))
    events = await published(settings, workspace, until=3)
    stopping.set("end of test")
    await task
    assert [event["data"]["n"] for event in events] == [0, 1, 2]
