"""Real Kafka, Postgres and registries for tests: embedded (devstack) or in containers.

`RQ_TEST_BACKEND` chooses: `embedded`, `docker`, or `auto` (the default: containers where an engine
answers and has or can pull the images, else embedded).
"""

import os
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from devstack.config import RegistryVersion
from tests.support.docker_backend import DockerBackend, why_not_docker
from tests.support.embedded_backend import EmbeddedBackend


class RegistryHandle(Protocol):
    """A running registry. `version` is its major one, `"2"` or `"3"`."""

    url: str
    version: str

    async def stop(self) -> None:
        """Stop it as an operator would; images stay, pending notifications are lost."""

    async def start(self) -> None:
        """Start it after `stop`; return when it answers."""

    async def restart(self) -> None:
        """Stop and start."""

    async def collect_garbage(self) -> None:
        """Run its own garbage collection while it is stopped."""

    async def kill(self) -> None:
        """SIGKILL it; it stays down until `start`."""


class Backend(Protocol):
    """Where tests get real infrastructure from. Kafka and Postgres are started when first asked for."""

    name: str

    async def kafka_bootstrap(self) -> str:
        """`host:port` of a Kafka that all tests of the session share."""

    async def postgres_url(self) -> str:
        """URL of a superuser's connection to the database `postgres` that all tests share."""

    def registry(
        self,
        version: RegistryVersion = "any",
        *,
        notification_url: str | None = None,
        token: str = "",
    ) -> AbstractAsyncContextManager[RegistryHandle]:
        """A registry of one's own, empty, with deletes enabled, that notifies `notification_url`."""

    async def close(self) -> None:
        """Stop what was started."""


def choose_backend(environ: dict[str, str] | None = None) -> Backend:
    """The backend that `RQ_TEST_BACKEND` asks for. Raises ValueError for another value."""
    wanted = (environ or dict(os.environ)).get("RQ_TEST_BACKEND", "auto") or "auto"
    if wanted not in ("auto", "docker", "embedded"):
        raise ValueError(f"RQ_TEST_BACKEND must be auto, docker or embedded, not {wanted!r}")
    if wanted == "docker" or (wanted == "auto" and why_not_docker() is None):
        return DockerBackend()
    return EmbeddedBackend()
