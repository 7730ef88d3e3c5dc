"""What a stack is told from outside: folder, ports, cache, registry."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Self

from devstack.errors import StackError

RegistryVersion = Literal["any", "2", "3"]


@dataclass(frozen=True)
class Ports:
    """Public TCP ports of a stack on the loopback address; 0 asks for any free one."""

    receiver: int = 8080
    api: int = 8081
    grpc: int = 9090
    registry: int = 5000
    kafka: int = 9092

    @classmethod
    def free(cls) -> Self:
        """Any free ports, for stacks that tests start."""
        return cls(receiver=0, api=0, grpc=0, registry=0, kafka=0)


class Front(NamedTuple):
    """A second listener of Kafka: its clients are told another port, that of a proxy before it."""

    listens: int
    advertised: int


@dataclass(frozen=True)
class StackConfig:
    """One embedded stack.

    `run_dir` holds its data, logs, pids and secrets; `cache_dir` what was fetched or built once for
    all stacks. `notification_url` is where the registry sends its events (default: the stack's own
    receiver). With `external_registry_url` no registry is started: that one is used. `program` is the
    command line of `registry-quota`, which our own parts are started by; `settings` are put into their
    environment (such as `RQ_DEFAULT_QUOTA_BYTES`) and win over what the stack knows itself (tests put
    a proxy between the parts so); `kafka_front` is for one before Kafka.
    """

    run_dir: Path
    cache_dir: Path
    ports: Ports = field(default_factory=Ports)
    registry_version: RegistryVersion = "any"
    registry_binary: Path | None = None
    external_registry_url: str | None = None
    notification_url: str | None = None
    program: tuple[str, ...] = (sys.executable, "-P", "-m", "cli.main")
    settings: Mapping[str, str] = field(default_factory=dict)
    kafka_front: Front | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Settings of `make run`: `RQ_RUN_DIR`, `RQ_*_PORT`, `RQ_CACHE_DIR`, `RQ_REGISTRY_BINARY`,
        `RQ_EXTERNAL_REGISTRY_URL`. Raises StackError for a value that cannot be.
        """
        defaults = Ports()
        binary = environ.get("RQ_REGISTRY_BINARY")
        return cls(
            run_dir=Path(environ.get("RQ_RUN_DIR") or ".run").expanduser().resolve(),
            cache_dir=default_cache_dir(environ),
            ports=Ports(
                receiver=_port(environ, "RQ_RECEIVER_PORT", defaults.receiver),
                api=_port(environ, "RQ_API_PORT", defaults.api),
                grpc=_port(environ, "RQ_GRPC_PORT", defaults.grpc),
                registry=_port(environ, "RQ_REGISTRY_PORT", defaults.registry),
                kafka=_port(environ, "RQ_KAFKA_PORT", defaults.kafka),
            ),
            registry_binary=Path(binary).expanduser().absolute() if binary else None,
            external_registry_url=environ.get("RQ_EXTERNAL_REGISTRY_URL") or None,
        )

    @classmethod
    def for_tests(
        cls,
        folder: Path,
        *,
        registry_version: RegistryVersion = "any",
        notification_url: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Self:
        """A stack in `folder` on free ports, with the cache that all stacks share."""
        return cls(
            run_dir=folder.absolute(),
            cache_dir=default_cache_dir(os.environ),
            ports=Ports.free(),
            registry_version=registry_version,
            notification_url=notification_url,
            settings=settings or {},
        )


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """`RQ_CACHE_DIR`, else `registry-quota` in the user's cache folder (XDG)."""
    if chosen := environ.get("RQ_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and Path(base).is_absolute() else Path("~/.cache").expanduser()
    return root / "registry-quota"


def _port(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise StackError(f"{variable} must be a TCP port from 1 to 65535, not {text!r}")
    return int(text)
