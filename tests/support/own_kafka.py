"""A Kafka of a test's own, whose disk can be put back to an earlier day."""

import asyncio
import shutil
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

from devstack.kafka import Node, answers, kafka_java
from devstack.ports import LOOPBACK, free_port
from devstack.processes import running
from tests.support.waiting import wait_until


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
