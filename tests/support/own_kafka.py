"""A Kafka of a test's own, whose disk can be put back to an earlier day."""

import asyncio
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from consumer.loop import NotificationConsumer
from devstack.kafka import Node, answers, kafka_java
from devstack.ports import LOOPBACK, free_port
from devstack.processes import running
from runtime.kafka import NOTIFICATIONS_TOPIC, cluster_id, create_topics
from runtime.postgres import Pool
from runtime.settings import Settings
from tests.support import ledgers
from tests.support.consumers import consuming, event, publish
from tests.support.waiting import wait_until

IMAGE = 5100


class OwnKafka:
    """One broker. Between `stop` and `start` its clients meet nobody."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        self._folder = folder
        self._cache_dir = cache_dir
        self._port = free_port()
        self._node = Node(folder, port=self._port)
        self._running = AsyncExitStack()
        self._jvm: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{LOOPBACK}:{self._port}"

    async def start(self) -> None:
        """Format its storage where it has none, and return when it answers."""
        self._jvm = self._jvm or await kafka_java(self._cache_dir, lambda _line: None)
        await self._node.format_once(self._jvm, lambda _line: None)
        self._process = await self._running.enter_async_context(
            running(self._node.command(self._jvm))
        )

        async def up() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, "Kafka ended"
            try:
                await answers(self._port)
            except Exception:  # noqa: BLE001 - whatever a broker that starts answers
                return False
            return True

        await wait_until(up, 60, interval=0.1, what="Kafka answers")

    async def stop(self) -> None:
        """End it in order: all that it took is on its disk."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 60)
        await self._running.aclose()
        self._running = AsyncExitStack()

    async def keep(self) -> None:
        """Remember its disk as it is. It must not run."""
        await asyncio.to_thread(self._copy, self._folder, self._kept)

    async def put_back(self) -> None:
        """Its disk is again what was kept. It must not run."""
        await asyncio.to_thread(self._copy, self._kept, self._folder)

    async def wipe(self) -> None:
        """Its disk is lost, its cluster with it. It must not run."""
        await asyncio.to_thread(shutil.rmtree, self._folder / "log")

    @property
    def _kept(self) -> Path:
        return self._folder.with_name(f"{self._folder.name}-kept")

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)


class World:
    """A broker with empty topics, a ledger, and pushes of images that nobody shares."""

    def __init__(self, kafka: OwnKafka, pool: Pool) -> None:
        self.kafka = kafka
        self.pool = pool
        self.settings = Settings(
            kafka_bootstrap=kafka.bootstrap,
            kafka_partitions=1,
            kafka_group=f"test-{uuid.uuid4().hex}",
            kafka_group_instance="the-one",
        )
        self.pushed = 0
        self.workspace = f"w{uuid.uuid4().hex[:8]}"

    async def push(self, count: int, *, keys: int = 1) -> None:
        """`keys`: into so many partitions, about."""
        for key in range(keys):
            values = [
                event(f"{self.workspace}/app", tag=f"{self.pushed}-{number}")
                for number in range(count)
            ]
            await publish(self.settings, f"{self.workspace}-{key}", *values)
            self.pushed += count

    @asynccontextmanager
    async def consumer(self) -> AsyncIterator[NotificationConsumer]:
        cluster = await cluster_id(self.settings)
        async with consuming(self.settings, self.pool, cluster=cluster) as consumer:
            yield consumer

    async def recorded(self, images: int | None = None) -> None:
        """Return when everything that was ever pushed is in the account, once."""
        wanted = (self.pushed if images is None else images) * IMAGE

        async def all_of_it() -> bool:
            usage = (await ledgers.usage(self.pool)).get(self.workspace)
            assert usage == wanted, (usage, wanted)
            return True

        await wait_until(all_of_it, 40, what="all is recorded")
        assert await ledgers.usage(self.pool) == await ledgers.recount(self.pool)

    async def breaks(self) -> list[dict[str, Any]]:
        rows = await self.pool.fetch(
            "SELECT kind, stored_offset, first_offset, end_offset, resumed_offset FROM log_breaks ORDER BY id"
        )
        return [dict(row) for row in rows]

    async def make_topic_anew(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            if NOTIFICATIONS_TOPIC in await admin.list_topics():
                await admin.delete_topics([NOTIFICATIONS_TOPIC])

            async def gone() -> bool:
                return NOTIFICATIONS_TOPIC not in await admin.list_topics()

            await wait_until(gone, 20, what="the topic is gone")
        finally:
            await admin.close()
        await create_topics(self.settings)

    async def forget_before(self, offset: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            wanted = {TopicPartition(NOTIFICATIONS_TOPIC, 0): RecordsToDelete(before_offset=offset)}
            await admin.delete_records(wanted)
        finally:
            await admin.close()
