"""The whole system from outside: its doors, as its users knock at them."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer

from devstack.config import StackConfig
from devstack.stack import Stack
from registry.client import RegistryClient
from tests.support.published import check_event
from tests.support.waiting import wait_until


class Doors(ABC):
    """What a registry, a build and an alerting consumer need to reach a system that runs somewhere."""

    session: aiohttp.ClientSession
    registry: RegistryClient

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """As `.run/env` has it."""

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> tuple[int, Any]:
        """The API's status and JSON."""
        token = self.environment["RQ_API_TOKEN"] if token is None else token
        async with self.session.request(
            method,
            f"{self.environment['RQ_API_URL']}{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
        ) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def get(self, path: str) -> Any:
        """JSON of an answer 200."""
        status, document = await self.call("GET", path)
        assert status == 200, (status, document)
        return document

    async def usage(self, workspace: str) -> int:
        """Bytes; 0 for a workspace that is not known yet."""
        status, document = await self.call("GET", f"/v1/workspaces/{workspace}/usage")
        return int(document["usage_bytes"]) if status == 200 else 0

    async def images(self, workspace: str) -> list[dict[str, Any]]:
        """All images of a workspace."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = await self.get(f"/v1/workspaces/{workspace}/images?limit=1000{cursor}")
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = f"&cursor={page['next_cursor']}"

    async def notify(self, body: bytes, *, token: str | None = None) -> int:
        """Deliver an envelope as a registry does; the status."""
        token = self.environment["RQ_WEBHOOK_TOKEN"] if token is None else token
        async with self.session.post(
            self.environment["RQ_WEBHOOK_URL"],
            data=body,
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/vnd.docker.distribution.events.v2+json",
            },
        ) as response:
            await response.read()
            return response.status

    async def notify_all(self, bodies: Iterable[bytes], *, at_once: int = 8) -> None:
        """Deliver many envelopes; every one is taken."""
        waiting = iter(bodies)

        async def deliver() -> None:
            for body in waiting:
                assert await self.notify(body) == 202

        await asyncio.gather(*(deliver() for _ in range(at_once)))

    async def settled(self, deadline: float = 60.0) -> None:
        """Return when everything that Kafka has is in the ledger."""

        async def caught_up() -> bool:
            ends = await self._ends()
            status = await self.get("/v1/status")
            stands = {item["partition"]: item["next_offset"] for item in status["partitions"]}
            return all(stands.get(partition, 0) >= end for partition, end in ends.items())

        await wait_until(caught_up, deadline, interval=0.1, what="the ledger catches up with Kafka")

    async def _ends(self) -> dict[int, int]:
        async with self.consumer("registry.notifications") as consumer:
            ends = await consumer.end_offsets(consumer.assignment())
        return {partition.partition: end for partition, end in ends.items()}

    @asynccontextmanager
    async def consumer(self, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
        """A reader of a topic from its start."""
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=self.environment["RQ_KAFKA_BOOTSTRAP"],
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def quota_events(self, workspace: str) -> list[dict[str, Any]]:
        """What alerting consumers have been told about a workspace so far, in order.

        Whatever was published so far, for whomever, is as the schemas say.
        """
        events = await self.messages("registry.quota-events")
        for event in events:
            check_event(event)
        return [event for event in events if event["subject"] == workspace]

    async def messages(self, topic: str) -> list[Any]:
        """Every message of a topic so far, decoded from JSON."""
        found: list[Any] = []
        async with self.consumer(topic) as consumer:
            partitions = consumer.assignment()
            ends = await consumer.end_offsets(partitions)
            waiting = {partition for partition in partitions if ends[partition] > 0}
            while waiting:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [json.loads(record.value) for record in records]
                waiting = {
                    partition
                    for partition in waiting
                    if await consumer.position(partition) < ends[partition]
                }
        return found


@dataclass
class System(Doors):
    """Real processes of this machine."""

    stack: Stack
    session: aiohttp.ClientSession
    registry: RegistryClient

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.stack.environment)


@asynccontextmanager
async def running_system(folder: Path, version: str, **settings: str) -> AsyncIterator[System]:
    """Start everything on free ports in `folder`."""
    config = StackConfig.for_tests(
        folder,
        registry_version="2" if version == "2" else "3",
        settings=settings,
    )
    async with (
        Stack(config) as stack,
        aiohttp.ClientSession() as session,
        RegistryClient(stack.registry_url, user_agent="acceptance-test/1") as registry,
    ):
        yield System(stack, session, registry)
