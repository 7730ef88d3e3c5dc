"""One whole system of real processes, with a fault proxy on every connection between them."""

import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from devstack.config import Front, Ports, StackConfig, default_cache_dir
from devstack.ports import free_port
from devstack.postgres import Postgres
from devstack.rundir import RunDir
from devstack.stack import Stack
from ledger.verify import verify
from registry.client import RegistryClient
from runtime.postgres import Pool, close_pool, open_pool
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.load import Load
from tests.support.own_kafka import OwnKafka, World
from tests.support.system import System
from tests.support.waiting import wait_until


@dataclass
class Proxies:
    """What stands between the parts. The tests' own clients do not go through them."""

    kafka: FaultProxy
    """Receiver, consumer and API → Kafka."""
    postgres: FaultProxy
    """Consumer and API → Postgres."""
    registry: FaultProxy
    """Consumer and API → registry."""
    webhook: FaultProxy
    """Registry → receiver."""

    @property
    def all(self) -> tuple[FaultProxy, ...]:
        """All four."""
        return (self.kafka, self.postgres, self.registry, self.webhook)


@dataclass
class Faulty(System):
    """The system, its proxies, and its database seen from outside."""

    proxies: Proxies
    pool: Pool
    front: str
    """`host:port` of Kafka behind the proxy, for programs of a test's own."""

    def load(self) -> Load:
        """Deliveries to its receiver."""
        return Load(self.environment["RQ_WEBHOOK_URL"], self.environment["RQ_WEBHOOK_TOKEN"])

    async def drifted(self) -> list[str]:
        """Workspaces whose counters differ from a recount."""
        async with self.pool.acquire() as connection:
            return [item.workspace async for item in verify(connection) if not item.exact]

    async def readiness(self, part: str) -> int:
        """Status of a part's `/readyz`; 0 when it does not answer."""
        url = {
            "receiver": self.environment["RQ_WEBHOOK_URL"].rsplit("/v1", 1)[0],
            "api": self.environment["RQ_API_URL"],
        }[part]
        try:
            async with self.session.get(f"{url}/readyz") as answer:
                return answer.status
        except (OSError, aiohttp.ClientError):
            return 0

    async def kill(self, part: str) -> None:
        """SIGKILL a part; return when its successor answers."""
        victim = self.stack.pid(part)
        self.stack.kill(part)

        def succeeded() -> bool:
            return self.stack.pid(part) not in {victim, None}

        await wait_until(succeeded, 30, what=f"{part} is started again")
        await self.stack.wait_until_answers(part, within=60)

    async def whole(self) -> None:
        """Return when everything answers and has caught up."""
        for proxy in self.proxies.all:
            proxy.heal()
        for part in ("kafka", "postgres", "registry", "receiver", "consumer", "api"):
            await self.stack.wait_until_answers(part, within=60)

        async def ready() -> bool:
            return await self.readiness("receiver") == await self.readiness("api") == 200

        await wait_until(ready, 30, what="receiver and API are ready")
        await self.settled()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def shared_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Faulty]:
    """Started once; ask for `faulty` instead."""
    folder: Path = tmp_path_factory.mktemp("faults")
    async with AsyncExitStack() as stack:

        async def proxy(upstream: int) -> FaultProxy:
            return await stack.enter_async_context(fault_proxy(upstream, free_port()))

        run_dir = RunDir(folder)
        run_dir.create()
        database = Postgres(run_dir)
        database.choose_port()
        port = int(database.url().rsplit(":", 1)[1].split("/")[0])
        front, registry, receiver = free_port(), free_port(), free_port()
        proxies = Proxies(
            kafka=await proxy(front),
            postgres=await proxy(port),
            registry=await proxy(registry),
            webhook=await proxy(receiver),
        )
        behind = f"127.0.0.1:{proxies.kafka.port}"
        config = dataclasses.replace(
            StackConfig.for_tests(
                folder,
                notification_url=f"http://127.0.0.1:{proxies.webhook.port}/v1/notifications",
                settings={
                    "RQ_KAFKA_BOOTSTRAP": behind,
                    "RQ_DATABASE_URL": database.url().replace(
                        f":{port}/", f":{proxies.postgres.port}/"
                    ),
                    "RQ_REGISTRY_URL": f"http://127.0.0.1:{proxies.registry.port}",
                    # Small ones: a kill falls between batches, not before the first.
                    "RQ_BATCH_MAX_EVENTS": "200",
                    # Poison is sent on purpose; the ceiling has a test of its own.
                    "RQ_DEAD_LETTER_CEILING": "0",
                },
            ),
            ports=dataclasses.replace(Ports.free(), registry=registry, receiver=receiver),
            kafka_front=Front(listens=front, advertised=proxies.kafka.port),
        )
        system = await stack.enter_async_context(Stack(config))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        client = await stack.enter_async_context(
            RegistryClient(system.registry_url, user_agent="fault-test/1")
        )
        pool = await open_pool(system.database_url, size=4, name="fault tests")
        stack.push_async_callback(close_pool, pool)
        yield Faulty(system, session, client, proxies, pool, behind)


@pytest_asyncio.fixture(loop_scope="session")
async def faulty(shared_system: Faulty) -> AsyncIterator[Faulty]:
    """The system, whole before a test and whole again after it."""
    await shared_system.whole()
    yield shared_system
    await shared_system.whole()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnKafka]:
    kafka = OwnKafka(tmp_path_factory.mktemp("kafka") / "node", default_cache_dir(os.environ))
    await kafka.start()
    yield kafka
    await kafka.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def world(broker: OwnKafka, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> World:
    """A ledger beside that broker; its consumers look at the log more often than others."""
    monkeypatch.setattr("consumer.loop.EVERY_SECONDS", 1.0)
    made = World(broker, pool)
    await made.make_topic_anew()
    return made
