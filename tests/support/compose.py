"""docker-compose.yml as a user starts it, under a project name of its own and on free ports."""

import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from devstack.ports import LOOPBACK, free_port
from devstack.processes import run_tool
from registry.client import RegistryClient
from tests.support.docker_backend import image, why_not_docker
from tests.support.system import Doors

ROOT = Path(__file__).parents[2]
STANDING = ("postgres", "kafka", "registry", "receiver", "consumer", "api")
"""The services that stay; others do their work once."""


def why_not_compose() -> str | None:
    """None when the whole project can be started here; else one sentence."""
    if os.environ.get("RQ_TEST_BACKEND") == "embedded":
        return "RQ_TEST_BACKEND says embedded"
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run(
            [docker, "compose", "version"], check=False, capture_output=True
        ).returncode
    ):
        return "no `docker compose` here"
    return why_not_docker()


class Compose:
    """One project. `port` gives what its doors are published on."""

    def __init__(self, folder: Path) -> None:
        self.project = f"rq-test-{uuid.uuid4().hex[:8]}"
        self.port = {
            name: free_port()
            for name in ("REGISTRY", "RECEIVER", "API", "GRPC", "PROMETHEUS", "GRAFANA")
        }
        self._kafka_port = free_port()
        self._settings = {f"RQ_{name}_PORT": str(port) for name, port in self.port.items()} | {
            "RQ_POSTGRES_IMAGE": image("postgres"),
            "RQ_KAFKA_IMAGE": image("kafka"),
            "RQ_REGISTRY_IMAGE": image("registry3"),
        }
        self._override = folder / "outside.yml"
        self._override.write_text(yaml.safe_dump(self._kafka_outside()))

    @property
    def kafka_bootstrap(self) -> str:
        """Where the tests, outside, find Kafka."""
        return f"{LOOPBACK}:{self._kafka_port}"

    async def __call__(self, *arguments: str) -> str:
        """`docker compose ARGUMENTS`; what it printed. Raises StackError with its last lines."""
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(self._override)]
        return await run_tool(
            ["docker", "compose", "-p", self.project, *files, *arguments],
            what=f"docker compose {' '.join(arguments)}",
            env=self._settings,
        )

    async def secret(self, name: str) -> str:
        """A secret that the service `secrets` made, as the head of the file says to read it."""
        return (await self("exec", "-T", "api", "cat", f"/secrets/{name}")).strip()

    async def command(self, *arguments: str) -> str:
        """`registry-quota ARGUMENTS` in the API's container."""
        return await self("exec", "-T", "api", "registry-quota", *arguments)

    def _kafka_outside(self) -> dict[str, object]:
        """Another door of Kafka's: alerting consumers of the tests are outside of the network."""
        port = self._kafka_port
        protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,OUTSIDE:PLAINTEXT"
        environment = {
            "KAFKA_LISTENERS": f"PLAINTEXT://:9092,CONTROLLER://:9093,OUTSIDE://:{port}",
            "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://kafka:9092,OUTSIDE://{LOOPBACK}:{port}",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": protocols,
        }
        return {
            "services": {
                "kafka": {"environment": environment, "ports": [f"{LOOPBACK}:{port}:{port}"]}
            }
        }


@dataclass
class Composed(Doors):
    """The doors of a project."""

    published: dict[str, str]
    session: aiohttp.ClientSession
    registry: RegistryClient

    @property
    def environment(self) -> dict[str, str]:
        """As `.run/env` has it."""
        return self.published


@asynccontextmanager
async def composed(folder: Path) -> AsyncIterator[tuple[Compose, Composed]]:
    """Build the image, start everything, and remove all of it afterwards."""
    compose = Compose(folder)
    try:
        await compose("up", "--build", "--wait", "--quiet-pull")
        environment = {
            "RQ_WEBHOOK_URL": f"http://{LOOPBACK}:{compose.port['RECEIVER']}/v1/notifications",
            "RQ_WEBHOOK_TOKEN": await compose.secret("RQ_WEBHOOK_TOKENS"),
            "RQ_API_URL": f"http://{LOOPBACK}:{compose.port['API']}",
            "RQ_API_TOKEN": await compose.secret("RQ_API_TOKEN"),
            "RQ_KAFKA_BOOTSTRAP": compose.kafka_bootstrap,
            "RQ_REGISTRY_URL": f"http://{LOOPBACK}:{compose.port['REGISTRY']}",
        }
        async with (
            aiohttp.ClientSession() as session,
            RegistryClient(environment["RQ_REGISTRY_URL"], user_agent="compose-test/1") as registry,
        ):
            yield compose, Composed(environment, session, registry)
    finally:
        every_profile = ("--profile", "*")
        await compose(*every_profile, "down", "--volumes", "--timeout", "2")
