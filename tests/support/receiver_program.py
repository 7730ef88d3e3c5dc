"""A receiver process of a test's own, to be killed, frozen, stopped and watched."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from devstack.ports import free_port
from tests.support.inbox import Record, event_ids, inbox
from tests.support.load import Load, new_connections
from tests.support.programs import Program, running
from tests.support.waiting import wait_until

TOKEN = "test-token"


@dataclass
class ReceiverProgram:
    """The process, what is sent to it, and the Kafka that it was to put it into."""

    program: Program
    load: Load
    url: str
    kafka: str
    """`host:port` by which the test reads, whatever stands between the receiver and Kafka."""

    async def readiness(self) -> int:
        """Status of `/readyz`; 0 when it does not answer."""
        try:
            async with new_connections() as http, http.get(self.url + "/readyz") as answer:
                return answer.status
        except (OSError, aiohttp.ClientError):
            return 0

    async def readiness_is(self, status: int) -> bool:
        """Whether that is its status."""
        return await self.readiness() == status

    async def in_flight(self) -> float:
        """Bytes that wait for Kafka."""
        async with new_connections() as http, http.get(self.url + "/metrics") as answer:
            said = await answer.text()
        return float(said.split("\nregistry_quota_receiver_in_flight_bytes ")[1].split()[0])

    async def stored(self) -> list[Record]:
        """Everything that is in its Kafka."""
        async with inbox(self.kafka, from_beginning=True) as everything:
            return await everything.read()

    async def lost(self) -> set[str]:
        """Ids that were acknowledged and are not in Kafka."""
        return self.load.acknowledged - await event_ids(self.kafka)


@asynccontextmanager
async def receiver_program(
    log: Path, *, bootstrap: str, kafka: str, **settings: str
) -> AsyncIterator[ReceiverProgram]:
    """A receiver that is ready, connected to `bootstrap`."""
    port = free_port()
    environment = {
        "RQ_KAFKA_BOOTSTRAP": bootstrap,
        "RQ_WEBHOOK_TOKENS": TOKEN,
        "RQ_RECEIVER_PORT": str(port),
        **settings,
    }
    url = f"http://127.0.0.1:{port}"
    async with running(("serve", "receiver"), environment, log) as program:
        load = Load(f"{url}/v1/notifications", TOKEN)
        receiver = ReceiverProgram(program, load, url, kafka)
        await wait_until(lambda: receiver.readiness_is(200), 20, what="the receiver is ready")
        yield receiver
