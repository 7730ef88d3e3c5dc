"""Where the database has no room to write down what was published."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from quota import relay as room
from quota.metrics import QuotaMetrics
from quota.relay import Relay
from runtime.lifecycle import Stopping


class FullDisk:
    """A connection that leads at once, may read, and cannot write."""

    async def fetchval(self, _statement: str) -> bool:
        return True

    async def fetch(self, _statement: str, _limit: int) -> list[dict[str, Any]]:
        return [
            {
                "id": 1,
                "event_id": uuid4(),
                "workspace": "acme",
                "type": "io.registryquota.image.recorded.v1",
                "data": "{}",
                "occurred_at": datetime.now(UTC),
                "traceparent": None,
            }
        ]

    async def execute(self, *_asked: object) -> None:
        raise asyncpg.DiskFullError("could not extend file: No space left on device")

    async def close(self, **_options: float) -> None:
        pass


class Kafka:
    """Takes everything."""

    def __init__(self) -> None:
        self.has = 0

    async def send(self, _topic: str, **_message: object) -> "asyncio.Future[None]":
        self.has += 1
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stored.set_result(None)
        return stored


async def test_it_does_not_publish_the_same_again_every_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each try is one more copy for all who listen, until somebody makes room."""
    waits: list[float] = []
    kafka = Kafka()

    class Waits(Stopping):
        async def sleep(self, seconds: float) -> bool:
            waits.append(seconds)
            self.set("seen")
            return True

    async def connect() -> Any:
        return FullDisk()

    async def open_producer() -> Any:
        return kafka

    async def discard(_producer: object) -> None:
        pass

    monkeypatch.setattr(room, "discard_producer", discard)
    relay = Relay(
        connect=connect,
        open_producer=open_producer,
        stopping=Waits(),
        clock=lambda: datetime.now(UTC),
        metrics=QuotaMetrics(),
    )
    await relay.run()
    assert kafka.has == 1
    assert len(waits) == 1
    assert waits[0] >= 10
