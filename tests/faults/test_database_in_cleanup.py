"""Postgres is cut off, killed, frozen or without room at any statement of a build that has to clean.

The build is answered in its time and goes on; afterwards ledger, registry and audit say the same,
nothing protected went, and every manifest that went has its bytes kept, whoever finishes the run.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
import pytest
import pytest_asyncio

from devstack.config import StackConfig
from devstack.stack import Stack
from ledger.outbox import BUILD_DENIED
from migrations.upgrade import upgrade
from registry.client import RegistryClient
from runtime.postgres import UNAVAILABLE, Pool, close_pool, open_pool
from tests.integration.quota.conftest import Service, service_of
from tests.support import ledgers
from tests.support.backends import Backend
from tests.support.cleanups import GOES, cleaner_of, everything_agrees, fill, later
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.promises import Promise, Scale
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("database-in-cleanup")

TIMEOUT_S = 2.0
"""The build's."""
FULL_S = 1.0
FROZEN_S = 2.5
"""Longer than the build waits."""


@dataclass
class World:
    """A database of its own behind a proxy, and a registry."""

    stack: Stack
    proxy: FaultProxy
    pool: Pool
    """Through the proxy: the API process's."""
    aside: Pool
    """Not through it: another process's, and the test's."""
    client: RegistryClient
    disk: SmallDisk | None = None
    """Postgres's, where it is a small one."""
    stays_frozen: asyncio.Task[None] | None = None

    def processes(self) -> list[psutil.Process]:
        """Postgres and all that it has started."""
        pid = self.stack.pid("postgres")
        if pid is None:
            return []
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def signal(self, number: int) -> None:
        """To all of them."""
        for process in self.processes():
            os.kill(process.pid, number)

    # What may happen at a statement; True: its answer is lost.

    def cut(self) -> bool:
        """The statement does not arrive."""
        self.proxy.cut()
        return False

    def answer_lost(self) -> bool:
        """It is carried out, and nobody is told."""
        return True

    def killed(self) -> bool:
        """As by the kernel for want of memory."""
        self.signal(signal.SIGKILL)
        return False

    def frozen(self) -> bool:
        """It is carried out much later."""
        self.signal(signal.SIGSTOP)
        self.stays_frozen = asyncio.create_task(self._thaw())
        return False

    def disk_full(self) -> bool:
        """And its next piece of the log needs room as well."""
        assert self.disk is not None
        self.disk.fill()
        self.stays_frozen = asyncio.create_task(self._make_room())
        return False

    async def _make_room(self) -> None:
        with contextlib.suppress(*UNAVAILABLE, asyncpg.PostgresError):
            async with self.aside.acquire() as connection:
                # The log goes on in a new file, for which there is no room.
                await connection.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
                await connection.execute("SELECT pg_switch_wal()")
                await connection.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
        await asyncio.sleep(FULL_S)
        assert self.disk is not None
        self.disk.empty()

    async def _thaw(self) -> None:
        await asyncio.sleep(FROZEN_S)
        self.signal(signal.SIGCONT)

    async def whole(self) -> None:
        """Return when it answers again."""
        if self.stays_frozen is not None:
            await self.stays_frozen
            self.stays_frozen = None

        async def answers() -> bool:
            try:
                return bool(await self.aside.fetchval("SELECT 1"))
            except UNAVAILABLE:
                return False

        await wait_until(answers, 30, what="Postgres answers")


FAULTS = {
    "cut off": World.cut,
    "cut off before the answer": World.answer_lost,
    "killed": World.killed,
    "frozen": World.frozen,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, backend) -> AsyncIterator[World]:
    async with world_at(tmp_path_factory.mktemp("postgres"), backend) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small_world(tmp_path_factory: pytest.TempPathFactory, backend) -> AsyncIterator[World]:
    """Its Postgres on a small disk."""
    folder = tmp_path_factory.mktemp("postgres")
    with small_disk(folder / "postgres", 300) as disk:
        async with world_at(folder, backend) as made:
            made.disk = disk
            yield made


@asynccontextmanager
async def world_at(folder: Path, backend: Backend) -> AsyncIterator[World]:
    async with (
        Stack(StackConfig.for_tests(folder), parts=("postgres",)) as stack,
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as registry,
        RegistryClient(registry.url) as client,
    ):
        await upgrade(stack.database_url)
        port = int(stack.database_url.rsplit(":", 1)[1].split("/")[0])
        async with fault_proxy(port) as proxy:
            behind = stack.database_url.replace(f":{port}/", f":{proxy.port}/")
            pool = await open_pool(behind, size=8, name="cleaned")
            aside = await open_pool(stack.database_url, size=4, name="tests")
            yield World(stack, proxy, pool, aside, client)
            await close_pool(aside)
            await close_pool(pool)


class Striking:
    """Does something at the n-th statement that goes through the proxy."""

    def __init__(self, strike: Callable[[], bool], at: int) -> None:
        self._strike = strike
        self._left = at

    @property
    def struck(self) -> bool:
        """Whether there were so many."""
        return self._left <= 0

    def __call__(self, chunk: bytes) -> bool:
        """Whether this statement's answer is lost."""
        # Bind (of a prepared statement) or Query; giving a connection back is none of ours.
        if chunk[:1] not in (b"B", b"Q") or b"pg_advisory_unlock_all" in chunk:
            return False
        self._left -= 1
        return self._left == 0 and self._strike()


@contextmanager
def striking(world: World, fault: str, at: int) -> Iterator[Striking]:
    """Meanwhile."""
    happens = World.disk_full if world.disk is not None else FAULTS[fault]
    strike = Striking(lambda: happens(world), at)
    world.proxy.lose_answers_to(strike, 1)
    try:
        yield strike
    finally:
        world.proxy.lose_answers_to(lambda _chunk: False, 0)


async def one_round(world: World, fault: str, at: int, promise: Promise) -> bool:
    """Whether the build's question had so many statements."""
    await ledgers.empty(world.aside)
    await fill(service_of(world.aside, world.client))
    service: Service = service_of(world.pool, world.client)
    began = time.monotonic()
    with striking(world, fault, at) as strike:
        answer = await service.ask("acme", timeout_s=TIMEOUT_S)
        took = time.monotonic() - began
        if not strike.struck:  # a cleanup goes on behind its build
            await service.cleaner.finish(30)
    assert answer.verdict.decision == "proceed"
    promise.worst("a build was answered after (timeout_s 2)", took)
    assert took < TIMEOUT_S + 0.5
    await world.whole()
    # Another process takes over while this one may still be at it.
    successor = cleaner_of(world.client, world.aside, clock=later)
    for taken in await successor.take_over_stale():
        await taken
    await service.cleaner.finish(30)
    for taken in await successor.take_over_stale():
        await taken
    again = await service_of(world.pool, world.client).ask("acme", timeout_s=30.0)
    assert again.verdict.decision == "proceed"
    assert again.verdict.reason != "check_failed"
    assert await everything_agrees(world.aside, world.client) == GOES
    assert not await world.aside.fetchval("SELECT count(*) FROM outbox WHERE type = $1",
                                          BUILD_DENIED)  # fmt: skip
    if strike.struck:
        promise.count(f"statements at which Postgres was {fault}", 1)
    return strike.struck


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.asyncio(loop_scope="module")
async def test_whatever_becomes_of_postgres_in_a_cleanup_it_is_finished_and_no_build_stops(
    world: World, fault: str, promise: Promise, scale: Scale
):
    short, long = {"killed": (61, 9), "frozen": (47, 13)}.get(fault, (29, 3))
    step = scale.pick(short, long)
    rounds, at = 0, step // 2 + 1
    while await one_round(world, fault, at, promise):
        rounds += 1
        at += step
    assert rounds * step > 60


@pytest.mark.asyncio(loop_scope="module")
async def test_a_full_disk_of_postgres_in_a_cleanup_is_waited_out(
    small_world: World, promise: Promise, scale: Scale
):
    step = scale.pick(41, 7)
    at = step // 2
    while await one_round(small_world, "without room", at, promise):
        at += step
    assert at > 60
    log = small_world.stack.run_dir.log("postgres").read_text()
    assert "No space left on device" in log
    promise.count("times that Postgres said there is no room", log.count("No space left on device"))
