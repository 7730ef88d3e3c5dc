"""The quota events of the demo's workspace, from Kafka as they come."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from cli.console import CommandError
from runtime.consumers import end_consumer
from runtime.errors import text_of
from runtime.kafka import QUOTA_EVENTS_TOPIC, connection_options, start
from runtime.settings import Settings

Event = dict[str, Any]
"""A CloudEvent."""


@asynccontextmanager
async def quota_events(
    settings: Settings, workspace: str, show: Callable[[Event], None], *, since: datetime
) -> AsyncIterator[list[Event]]:
    """The list of what happened in the workspace `since`. It grows by itself; each is shown first.

    Raises CommandError when Kafka does not answer.
    """
    seen: list[Event] = []
    consumer = AIOKafkaConsumer(
        QUOTA_EVENTS_TOPIC, **connection_options(settings), enable_auto_commit=False
    )

    async def read() -> None:
        async for record in consumer:
            event = json.loads(record.value)
            # What happened before may be published only now.
            if event["subject"] == workspace and datetime.fromisoformat(event["time"]) >= since:
                show(event)
                seen.append(event)

    try:
        await start(consumer, settings)
        # Only the future matters: the workspace is empty. Positions are known when this returns.
        await consumer.seek_to_end()
    except KafkaError as error:
        await end_consumer(consumer)
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({text_of(error)}); check RQ_KAFKA_BOOTSTRAP"
        ) from error
    reading = asyncio.create_task(read())
    try:
        yield seen
    finally:
        reading.cancel()
        # Had it failed, its events would be missing, which the story says.
        await asyncio.gather(reading, return_exceptions=True)
        await end_consumer(consumer)
