"""The forwarding process: Kafka in, one address out."""

import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import aiohttp
from aiokafka import AIOKafkaConsumer

from alerts.forward import Forwarder, Policy
from alerts.render import Render
from alerts.send import Sender
from alerts.standing import Standing
from runtime.consumers import end_consumer
from runtime.kafka import (
    ALERTS_DEAD_LETTER_TOPIC,
    ALERTS_STANDING_TOPIC,
    connection_options,
    create_topics,
)
from runtime.kafka import start as connected
from runtime.lifecycle import Stopping, background, run_until_stopped
from runtime.logs import get_logger
from runtime.patience import until_it_answers
from runtime.producers import discard_producer, open_producer
from runtime.settings import Settings
from runtime.tls import client_context

log = get_logger(__name__)

_MAX_POLL_MS = 3_600_000
"""An event may be tried for a long time; who died is known by its heartbeat."""


async def run(
    settings: Settings,
    *,
    url: str,
    group: str,
    render: Render,
    policy: Policy,
    repeats: bool = False,
) -> int:
    """Forward until a signal comes or too much cannot be delivered; returns the exit code.

    `repeats`: the other side forgets what nobody repeats.
    """
    tls = client_context(settings)

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        waiting = partial(until_it_answers, "kafka", stopping=stopping, check="RQ_KAFKA_BOOTSTRAP")
        topics = (ALERTS_DEAD_LETTER_TOPIC, *([ALERTS_STANDING_TOPIC] if repeats else []))
        await waiting(connect=partial(create_topics, settings, topics))
        producer = await waiting(connect=partial(open_producer, settings))
        stack.push_async_callback(discard_producer, producer)
        consumer = AIOKafkaConsumer(
            **connection_options(settings),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_interval_ms=_MAX_POLL_MS,
        )
        await connected(consumer, settings)
        stack.push_async_callback(end_consumer, consumer)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls))
        )
        forwarder = Forwarder(
            consumer=consumer,
            producer=producer,
            render=render,
            send=Sender(session, url),
            policy=policy,
            stopping=stopping,
            clock=lambda: datetime.now(UTC),
            standing=Standing(settings, producer, group=group) if repeats else None,
            jitter=lambda: random.uniform(0.5, 1.0),  # noqa: S311 - not a secret
        )
        await stack.enter_async_context(background("forward", forwarder.run(), stopping))
        log.info("forwarding", group=group)

    return await run_until_stopped(start)
