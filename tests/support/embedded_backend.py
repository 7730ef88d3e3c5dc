"""Infrastructure for tests from `devstack`: processes of this machine."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from devstack.config import RegistryVersion, StackConfig
from devstack.ports import free_port
from devstack.processes import run_tool
from devstack.registry import Registry, RegistryBinary
from devstack.rundir import RunDir
from devstack.stack import Stack
from devstack.supervisor import Supervisor

_MEMORY_BYTES = 4 * 1024**3


class EmbeddedRegistry:
    """A registry process of one's own."""

    def __init__(self, part: Registry, supervisor: Supervisor) -> None:
        self.url = part.url
        self.version = part.binary.version if part.binary else ""
        self._keeper = supervisor["registry"]
        self._binary = part.binary
        self._config = part.configuration_file

    async def stop(self) -> None:
        """SIGTERM."""
        await self._keeper.end(within=5)

    async def start(self) -> None:
        """Start it again on the same port and data."""
        await self._keeper.bring_up()

    async def restart(self) -> None:
        """Stop and start."""
        await self.stop()
        await self.start()

    async def collect_garbage(self) -> None:
        """Run the registry's own garbage collection while the registry is stopped."""
        if self._binary is None:
            raise RuntimeError("the registry has no program")
        await self.stop()
        await run_tool(
            [self._binary.path, "garbage-collect", self._config],
            what="the registry's garbage collection",
            env={"OTEL_TRACES_EXPORTER": "none"},
        )
        await self.start()

    async def kill(self) -> None:
        """SIGKILL, and no restart by the keeper."""
        await self._keeper.end(within=0)


class EmbeddedBackend:
    """Kafka and Postgres in one stack each, started when first asked for."""

    name = "embedded"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rq-test-"))
        self._folders = {
            "kafka": self._folder,
            "postgres": Path(tempfile.mkdtemp(prefix="rq-test-", dir=_memory())),
        }
        self._running = AsyncExitStack()
        self._stacks: dict[str, Stack] = {}
        self._starting = asyncio.Lock()
        self._registries: dict[RegistryVersion, RegistryBinary] = {}

    async def _stack(self, part: str) -> Stack:
        async with self._starting:
            if part not in self._stacks:
                config = StackConfig.for_tests(self._folders[part] / part)
                stack = Stack(config, parts=(part,))
                self._stacks[part] = await self._running.enter_async_context(stack)
            return self._stacks[part]

    async def kafka_bootstrap(self) -> str:
        """`host:port` of the session's Kafka."""
        return (await self._stack("kafka")).kafka_bootstrap

    async def postgres_url(self) -> str:
        """Superuser's URL of the session's Postgres."""
        stack = await self._stack("postgres")
        return stack.database_url.rsplit("/", 1)[0] + "/postgres"

    @asynccontextmanager
    async def registry(
        self,
        version: RegistryVersion = "any",
        *,
        notification_url: str | None = None,
        token: str = "",
    ) -> AsyncIterator[EmbeddedRegistry]:
        """A registry of one's own on a free port, its data gone afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="registry-", dir=self._folder))
        config = StackConfig.for_tests(folder)
        run_dir = RunDir(config.run_dir)
        run_dir.create()
        part = Registry(
            run_dir,
            port=free_port(),
            cache_dir=config.cache_dir,
            version=version,
            chosen=self._registries.get(version),
            notification_url=notification_url,
            token=token,
        )
        supervisor = Supervisor([part], run_dir, lambda _line: None)
        try:
            await supervisor.bring_up()
            if part.binary is None:
                pytest.skip(f"no registry {version} can be had on this machine")
            self._registries[version] = part.binary
            yield EmbeddedRegistry(part, supervisor)
        finally:
            await supervisor.end()
            shutil.rmtree(folder, ignore_errors=True)

    async def close(self) -> None:
        """Stop everything and remove its data."""
        await self._running.aclose()
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    """A folder in memory where there is plenty, else None: the usual place for temporary files.

    Each test has a database of its own, of some 300 files: a disk's file system that makes and
    removes thousands of them takes longer than the tests.
    """
    shared = Path("/dev/shm")
    try:
        usable = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= _MEMORY_BYTES
    except OSError:
        return None
    return shared if usable else None
