"""Infrastructure for tests in containers (testcontainers), on an engine of this machine.

Kafka and registries share the host's network: a broker has to advertise the very address that
clients use, and a registry has to reach a receiver that a test runs on 127.0.0.1.
"""

import asyncio
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from devstack.config import RegistryVersion
from devstack.kafka import answers, server_properties
from devstack.ports import LOOPBACK, free_port
from devstack.registry import configuration, get_ok
from tests.support.waiting import wait_until

IMAGES = {
    "postgres": ("RQ_TEST_POSTGRES_IMAGE", "postgres:18"),
    "kafka": ("RQ_TEST_KAFKA_IMAGE", "apache/kafka:4.1.1"),
    "registry2": ("RQ_TEST_REGISTRY2_IMAGE", "registry:2"),
    "registry3": ("RQ_TEST_REGISTRY3_IMAGE", "registry:3"),
}


def image(name: str) -> str:
    """The image for a key of IMAGES, from its variable or the default."""
    variable, default = IMAGES[name]
    return os.environ.get(variable) or default


def why_not_docker() -> str | None:
    """None when an engine answers and has, or can pull, every image; else one sentence."""
    if not _engine_listens():
        return "no Docker engine listens"
    from testcontainers.core.docker_client import DockerClient

    client = DockerClient(timeout=60).client
    try:
        for name in IMAGES:
            if not client.images.list(name=image(name)):
                client.images.pull(image(name))
    except Exception as error:  # noqa: BLE001 - whatever it is, the embedded parts do
        return f"the Docker engine cannot be used ({error})"
    finally:
        client.close()
    return None


def _engine_listens() -> bool:
    """Asked before the SDK, which leaves a socket open when nobody answers."""
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not address.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address.removeprefix("unix://")) == 0


class DockerRegistry:
    """A registry in a container."""

    def __init__(self, container: Any, *, url: str, version: str, image: str) -> None:
        self.url = url
        self.version = version
        self._container = container
        self._image = image

    async def stop(self) -> None:
        """`docker stop`."""
        await asyncio.to_thread(self._container.stop, timeout=5)

    async def start(self) -> None:
        """`docker start`; return when it answers."""
        await asyncio.to_thread(self._container.start)
        await self.wait_until_answers()

    async def restart(self) -> None:
        """Stop and start."""
        await self.stop()
        await self.start()

    async def collect_garbage(self) -> None:
        """Run the registry's own garbage collection, in another container, while it is stopped."""
        await self.stop()
        await asyncio.to_thread(
            self._container.client.containers.run,
            self._image,
            "garbage-collect /config/config.yml",
            environment={"OTEL_TRACES_EXPORTER": "none"},
            volumes_from=[self._container.id],
            remove=True,
        )
        await self.start()

    async def kill(self) -> None:
        """`docker kill`."""
        await asyncio.to_thread(self._container.kill)

    async def wait_until_answers(self) -> None:
        """Return when `/v2/` answers."""
        await wait_until(lambda: _answers(self.url), 30, what="the registry to answer")


async def _answers(url: str) -> bool:
    await get_ok(f"{url}/v2/")
    return True


class DockerBackend:
    """Kafka and Postgres in one container each, started when first asked for."""

    name = "docker"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rq-test-"))
        self._containers: list[Any] = []
        self._starting = asyncio.Lock()
        self._kafka = ""
        self._postgres = ""

    async def kafka_bootstrap(self) -> str:
        """`host:port` of the session's Kafka."""
        async with self._starting:
            if not self._kafka:
                port = free_port()
                await self._run(_kafka_container(port))
                self._kafka = f"{LOOPBACK}:{port}"
                await wait_until(lambda: _kafka_answers(port), 60, what="Kafka to answer")
            return self._kafka

    async def postgres_url(self) -> str:
        """Superuser's URL of the session's Postgres."""
        from testcontainers.community.postgres import PostgresContainer

        async with self._starting:
            if not self._postgres:
                container = PostgresContainer(image("postgres"), dbname="postgres", driver=None)
                await self._run(container)
                self._postgres = container.get_connection_url().replace("localhost", LOOPBACK)
            return self._postgres

    async def _run(self, container: Any) -> None:
        self._containers.append(container)
        await asyncio.to_thread(container.start)

    @asynccontextmanager
    async def registry(
        self,
        version: RegistryVersion = "any",
        *,
        notification_url: str | None = None,
        token: str = "",
    ) -> AsyncIterator[DockerRegistry]:
        """A registry of one's own on a free port."""
        from testcontainers.core.container import DockerContainer

        major = "2" if version == "any" else version
        port = free_port()
        folder = Path(tempfile.mkdtemp(prefix="registry-", dir=self._folder))
        data = folder.name
        values = configuration(
            data=Path("/var/lib/registry"),
            port=port,
            secret="secret",
            notification_url=notification_url,
            token=token,
        )
        (folder / "config.yml").write_text(json.dumps(values))
        container = (
            DockerContainer(image(f"registry{major}"))
            .with_kwargs(network_mode="host")
            .with_env("OTEL_TRACES_EXPORTER", "none")
            .with_volume_mapping(str(folder), "/config", "ro")
            .with_volume_mapping(data, "/var/lib/registry", "rw")
            .with_command("serve /config/config.yml")
        )
        await asyncio.to_thread(container.start)
        try:
            handle = DockerRegistry(
                container.get_wrapped_container(),
                url=f"http://{LOOPBACK}:{port}",
                version=major,
                image=image(f"registry{major}"),
            )
            await handle.wait_until_answers()
            yield handle
        finally:
            await asyncio.to_thread(_remove_with_volume, container, data)

    async def close(self) -> None:
        """Remove the containers."""
        for container in reversed(self._containers):
            await asyncio.to_thread(container.stop)
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_with_volume(container: Any, name: str) -> None:
    client = container.get_docker_client().client
    container.stop()
    client.volumes.get(name).remove(force=True)


def _kafka_container(port: int) -> Any:
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image("kafka")).with_kwargs(network_mode="host")
    properties = server_properties(
        data=Path("/var/lib/kafka/data"), port=port, controller_port=free_port()
    )
    for key, value in properties.items():
        container = container.with_env("KAFKA_" + key.upper().replace(".", "_"), value)
    return container


async def _kafka_answers(port: int) -> bool:
    await answers(port)
    return True
