"""Nothing that was acknowledged is lost, and nobody waits, whatever dies or freezes.

A receiver process of its own and a Kafka of its own. Prints what it measured (`pytest -s`).
"""

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from devstack.config import StackConfig
from devstack.ports import free_port
from devstack.stack import Stack
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC, create_topics
from runtime.settings import Settings
from tests.integration.webhook_receiver.conftest import TOKEN, StartReceiver
from tests.support.deliveries import envelope, event
from tests.support.inbox import Record, inbox
from tests.support.programs import Program, frozen, running
from tests.support.waiting import wait_until
from webhook_receiver.messages import EXCERPT_BYTES
from webhook_receiver.wiring import IN_FLIGHT_BYTES

PATIENCE = 2.0
"""Seconds that a busy machine may add to a figure."""

SERVE = ("serve", "receiver")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A Kafka that may be killed and frozen, with our topics."""
    config = StackConfig.for_tests(tmp_path_factory.mktemp("kafka"))
    async with Stack(config, parts=("kafka",)) as stack:
        await create_topics(Settings(kafka_bootstrap=stack.kafka_bootstrap))
        yield stack


@dataclass
class Load:
    """Deliveries with ids of their own, each on a new connection, and what was answered."""

    port: int
    padding: int = 0
    acknowledged: set[str] = field(default_factory=set)
    answers: Counter[int | str] = field(default_factory=Counter)
    slowest: float = 0.0
    _number: int = 0

    async def deliver(self, http: aiohttp.ClientSession, prefix: str) -> int | str:
        """One delivery; the status or the name of the error."""
        self._number += 1
        name = f"{prefix}-{self._number}"
        repository = f"tenant{self._number % 20}/app"
        body = envelope(event(repository, event_id=name, url="x" * self.padding))
        started = time.monotonic()
        answer: int | str
        try:
            async with http.post(
                f"http://127.0.0.1:{self.port}/v1/notifications",
                data=io.BytesIO(body),
                headers={"Authorization": f"Bearer {TOKEN}"},
            ) as response:
                answer = response.status
                self.slowest = max(self.slowest, time.monotonic() - started)
        except (OSError, aiohttp.ClientError) as error:
            answer = type(error).__name__
        if answer == 202:
            self.acknowledged.add(name)
        self.answers[answer] += 1
        return answer

    @asynccontextmanager
    async def running(self, prefix: str, workers: int = 8) -> AsyncIterator["Load"]:
        """Deliver meanwhile, as many at once as there are workers."""
        stop = asyncio.Event()

        async def work(http: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                if await self.deliver(http, prefix) != 202:
                    await asyncio.sleep(0.02)

        async with client() as http:
            tasks = [asyncio.create_task(work(http)) for _ in range(workers)]
            try:
                yield self
            finally:
                stop.set()
                await asyncio.gather(*tasks)

    async def reaches(self, more: int) -> None:
        """Wait until so many more were acknowledged."""
        goal = len(self.acknowledged) + more
        await wait_until(lambda: len(self.acknowledged) >= goal, 30, what=f"{more} more accepted")


def client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))


def in_flight(exposition: str) -> float:
    """The bytes in flight, as `/metrics` says it."""
    (line,) = [
        line
        for line in exposition.splitlines()
        if line.startswith("registry_quota_receiver_in_flight_bytes ")
    ]
    return float(line.split()[1])


@dataclass
class Deployed:
    """The receiver's process and its Kafka."""

    program: Program
    kafka: Stack
    load: Load
    url: str

    async def readiness(self) -> int:
        async with client() as http, http.get(self.url + "/readyz") as answer:
            return answer.status

    async def readiness_is(self, status: int) -> bool:
        return await self.readiness() == status

    async def is_ready(self) -> bool:
        return await self.readiness_is(200)

    async def holds(self, size: int) -> bool:
        """Whether so many bytes are in flight."""
        async with client() as http, http.get(self.url + "/metrics") as answer:
            return in_flight(await answer.text()) >= size

    async def stored(self) -> list[Record]:
        """Everything that is in its Kafka."""
        async with inbox(self.kafka.kafka_bootstrap, from_beginning=True) as everything:
            return await everything.read()

    async def lost(self) -> set[str]:
        """Ids that were acknowledged and are not in Kafka."""
        stored = {
            json.loads(record.value)["id"]
            for record in await self.stored()
            if record.topic == NOTIFICATIONS_TOPIC
        }
        return self.load.acknowledged - stored


@pytest_asyncio.fixture(loop_scope="session")
async def deployed(kafka: Stack, tmp_path: Path) -> AsyncIterator[Deployed]:
    """A receiver process that is ready."""
    port = free_port()
    environment = {
        "RQ_KAFKA_BOOTSTRAP": kafka.kafka_bootstrap,
        "RQ_WEBHOOK_TOKENS": TOKEN,
        "RQ_RECEIVER_PORT": str(port),
    }
    async with running(SERVE, environment, tmp_path / "receiver.log") as program:
        deployed = Deployed(program, kafka, Load(port), f"http://127.0.0.1:{port}")
        await wait_until(deployed.is_ready, 20, what="the receiver is ready")
        yield deployed


async def test_a_frozen_broker_means_quick_503s_in_bounded_memory_and_recovery(
    deployed: Deployed,
):
    load, program = deployed.load, deployed.program
    broker = deployed.kafka.pid("kafka")
    assert broker is not None
    load.padding = 100_000
    async with load.running("frozen", workers=64):
        await load.reaches(300)
        before = program.memory()
        load.slowest = 0.0
        async with frozen(broker):
            await wait_until(lambda: load.answers[503] >= 300, 30, what="300 answers of 503")
            await wait_until(lambda: deployed.readiness_is(503), 10)
        thawed = time.monotonic()
        await load.reaches(1)
        recovery = time.monotonic() - thawed
        await load.reaches(300)
    growth = program.peak_memory() - before
    print(f"\nslowest answer {load.slowest:.2f} s, growth {growth >> 20} MiB, {recovery=:.2f} s")  # noqa: T201 - a figure to read with `pytest -s`
    assert load.slowest < 0.8 + PATIENCE
    assert growth < 3 * IN_FLIGHT_BYTES
    assert recovery < 10
    assert set(load.answers) == {202, 503}
    assert await deployed.lost() == set()


async def test_a_frozen_broker_does_not_delay_the_stop(deployed: Deployed):
    broker = deployed.kafka.pid("kafka")
    assert broker is not None
    async with client() as http:
        assert await deployed.load.deliver(http, "before") == 202
        async with frozen(broker):
            in_flight = [
                asyncio.create_task(deployed.load.deliver(http, "stopping")) for _ in range(20)
            ]
            await wait_until(lambda: deployed.holds(20 * 1024), what="all of them wait for Kafka")
            code, took = await deployed.program.stop()
            answers = await asyncio.gather(*in_flight)
    print(f"\nstopped in {took:.2f} s, answers {Counter(answers)}")  # noqa: T201 - a figure to read with `pytest -s`
    assert code == 0
    assert took < 4
    assert set(answers) == {503}
    assert "Traceback" not in deployed.program.log()


async def test_a_stop_under_load_loses_nothing_that_was_acknowledged(deployed: Deployed):
    async with deployed.load.running("stop"):
        await deployed.load.reaches(200)
        code, took = await deployed.program.stop()
    assert code == 0
    assert took < 4
    assert await deployed.lost() == set()
    assert "Traceback" not in deployed.program.log()


async def test_a_killed_receiver_loses_nothing_that_was_acknowledged(deployed: Deployed):
    async with deployed.load.running("killed"):
        for _ in range(3):
            await deployed.load.reaches(200)
            deployed.program.kill()
            deployed.program.start()
        await deployed.load.reaches(200)
    print(f"\n{len(deployed.load.acknowledged)} acknowledged, 3 kills, {deployed.load.answers}")  # noqa: T201 - a figure to read with `pytest -s`
    assert await deployed.lost() == set()


async def test_a_killed_broker_loses_nothing_that_was_acknowledged(deployed: Deployed):
    async with deployed.load.running("broker"):
        for _ in range(2):
            await deployed.load.reaches(200)
            deployed.kafka.kill("kafka")
            await wait_until(lambda: deployed.readiness_is(503), 10, what="it is not ready")
            await deployed.kafka.wait_until_answers("kafka", within=60)
        await deployed.load.reaches(200)
    print(f"\n{len(deployed.load.acknowledged)} acknowledged, 2 kills, {deployed.load.answers}")  # noqa: T201 - a figure to read with `pytest -s`
    assert deployed.load.slowest < 0.8 + PATIENCE
    assert await deployed.lost() == set()


async def test_a_receiver_that_starts_without_kafka_begins_when_it_comes(
    deployed: Deployed,
):
    await deployed.kafka.pause("kafka")
    try:
        deployed.program.kill()
        deployed.program.start()
        await wait_until(lambda: deployed.readiness_is(503), 20, what="it says why it is not ready")
        async with client() as http:
            assert await deployed.load.deliver(http, "without") == 503
    finally:
        await deployed.kafka.resume("kafka")
    await wait_until(deployed.is_ready, 20, what="it is ready")
    async with client() as http:
        assert await deployed.load.deliver(http, "with") == 202
    assert await deployed.lost() == set()


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
