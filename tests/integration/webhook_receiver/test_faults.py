"""A receiver and a Kafka that refuses, freezes, or lacks its topics. What dies: tests/faults/."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from devstack.config import StackConfig
from devstack.stack import Stack
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC, create_topics
from runtime.settings import Settings
from tests.integration.webhook_receiver.conftest import StartReceiver
from tests.support.deliveries import envelope, event
from tests.support.inbox import inbox
from tests.support.programs import frozen, running
from tests.support.waiting import wait_until
from webhook_receiver.messages import EXCERPT_BYTES

SERVE = ("serve", "receiver")


def in_flight(exposition: str) -> float:
    """The bytes in flight, as `/metrics` says it."""
    return float(
        exposition.split("\nregistry_quota_receiver_in_flight_bytes ")[1].split(maxsplit=1)[0]
    )


@asynccontextmanager
async def largest_message(bootstrap: str, size: int) -> AsyncIterator[None]:
    """The notifications topic takes no record batches above `size` bytes meanwhile."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()

    async def set_to(value: int) -> None:
        limits = {"max.message.bytes": str(value)}
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, NOTIFICATIONS_TOPIC, limits)]
        )

    try:
        await set_to(size)
        yield
    finally:
        await set_to(9 << 20)
        await admin.close()


async def test_what_the_broker_refuses_for_its_size_is_a_short_dead_letter(
    kafka: Stack, start_receiver: StartReceiver
):
    receiver = await start_receiver(kafka_bootstrap=kafka.kafka_bootstrap, ack_timeout=5)
    async with inbox(kafka.kafka_bootstrap) as stored:
        async with largest_message(kafka.kafka_bootstrap, 100_000):
            small = [event("acme/web") for _ in range(3)]
            large = event("acme/web", url="x" * 200_000)
            for one in (small[0], large, small[1]):
                assert await receiver.post(envelope(one)) == 202
            assert await receiver.post(envelope(large, small[2])) == 202
        records = await stored.read()
    assert [json.loads(r.value) for r in records if r.topic == NOTIFICATIONS_TOPIC] == small
    dead = [r for r in records if r.topic == DEAD_LETTER_TOPIC]
    assert [(r.key, len(r.value)) for r in dead] == [(b"acme", EXCERPT_BYTES)] * 2
    assert all(b"too large" in r.headers["reason"] for r in dead)


@pytest.mark.promise("back-pressure")
async def test_a_full_receiver_says_so_at_once(kafka: Stack, start_receiver: StartReceiver):
    receiver = await start_receiver(
        {"in_flight_bytes": 1_000_000}, kafka_bootstrap=kafka.kafka_bootstrap, ack_timeout=5
    )
    assert await receiver.post(envelope(event())) == 202
    body = envelope(event("acme/web", url="x" * 300_000))
    broker = kafka.pid("kafka")
    assert broker is not None
    async with frozen(broker):
        waiting = [asyncio.create_task(receiver.post(body)) for _ in range(3)]

        async def is_full() -> bool:
            return in_flight((await receiver.get("/metrics"))[1]) > 900_000

        await wait_until(is_full, 4, what="it is full")
        started = time.monotonic()
        assert await receiver.post(body) == 503
        assert time.monotonic() - started < 0.5
    assert set(await asyncio.gather(*waiting)) <= {202, 503}

    async def is_empty() -> bool:
        return in_flight((await receiver.get("/metrics"))[1]) == 0

    await wait_until(is_empty, 15, what="nothing is held any more")
    assert await receiver.post(body) == 202


async def test_without_its_topics_it_is_not_ready_and_says_why(
    tmp_path: Path, start_receiver: StartReceiver
):
    async with AsyncExitStack() as stack:
        config = StackConfig.for_tests(tmp_path)
        bare = await stack.enter_async_context(Stack(config, parts=("kafka",)))
        receiver = await start_receiver(kafka_bootstrap=bare.kafka_bootstrap)

        async def says_why() -> bool:
            status, text = await receiver.get("/readyz")
            return status == 503 and NOTIFICATIONS_TOPIC in text

        await wait_until(says_why, 15, what="it says which topic is missing")
        assert await receiver.post(envelope(event())) == 503
        await create_topics(Settings(kafka_bootstrap=bare.kafka_bootstrap))

        async def takes_one() -> bool:
            return await receiver.post(envelope(event())) == 202

        await wait_until(takes_one, 30, what="it takes a delivery")
        assert (await receiver.get("/readyz"))[0] == 200


@pytest.mark.parametrize("tokens", [None, "", "  ", "edge=", "a=secret,b=secret"])
async def test_without_a_token_it_refuses_to_start(tmp_path: Path, tokens: str | None):
    environment = {"RQ_RECEIVER_PORT": "0"}
    if tokens is not None:
        environment["RQ_WEBHOOK_TOKENS"] = tokens
    async with running(SERVE, environment, tmp_path / "log") as program:
        assert await program.wait() != 0
    assert "RQ_WEBHOOK_TOKENS" in program.log()
