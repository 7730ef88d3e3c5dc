"""The stack as a whole: Postgres, Kafka, a registry and our own programs, or some of them."""

import asyncio
from collections.abc import Collection
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from devstack import leftovers
from devstack.config import StackConfig
from devstack.errors import StackError
from devstack.kafka import Kafka
from devstack.parts import Part, Say, quiet
from devstack.ports import LOOPBACK, free_port, require_free
from devstack.postgres import Postgres
from devstack.registry import Registry
from devstack.roles import Role, Task
from devstack.rundir import RunDir, announce, withdraw
from devstack.supervisor import Supervisor

INFRASTRUCTURE = ("postgres", "kafka", "registry")
OWN = ("migrate", "receiver", "consumer", "api")
ALL = (*INFRASTRUCTURE, *OWN)

_PORT_OF = {
    # part: the variables and fields of `Ports` that it listens on
    "receiver": (("RQ_RECEIVER_PORT", "receiver"),),
    "api": (("RQ_API_PORT", "api"), ("RQ_GRPC_PORT", "grpc")),
    "registry": (("RQ_REGISTRY_PORT", "registry"),),
    "kafka": (("RQ_KAFKA_PORT", "kafka"),),
}


class Stack:
    """One stack in one run dir, for `async with`: entered, everything answers; left, all has ended.

    `parts` are names from ALL. Use it in the main thread. Raises StackError when it cannot start.
    """

    def __init__(
        self, config: StackConfig, *, parts: Collection[str] = ALL, say: Say = quiet
    ) -> None:
        self.config = config
        self.run_dir = RunDir(config.run_dir)
        self._names = frozenset(parts)
        self._say = say
        self._held = ExitStack()
        self._ports: dict[str, int] = {}
        self._postgres = Postgres(self.run_dir)
        self._supervisor: Supervisor | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every part and, when the whole system answers, write the `env` file.

        Raises StackError; `stop` is still due then.
        """
        self.run_dir.create()
        self._held.enter_context(self.run_dir.locked())
        withdraw(self.run_dir.env, self.config.cache_dir)
        leftovers.end(self.run_dir.root, self._say)
        for stale in self.run_dir.pids.glob("*.pid"):
            stale.unlink()
        self._choose_ports()
        self._supervisor = Supervisor(self._build_parts(), self.run_dir, self._say)
        await self._supervisor.bring_up()
        if self._names >= set(OWN):
            announce(self.run_dir.env, self.environment, self.config.cache_dir)

    async def stop(self) -> None:
        """End every part in reverse order within 6 seconds, and let go of the run dir."""
        if self._supervisor:  # else the run dir may be another's
            withdraw(self.run_dir.env, self.config.cache_dir)
            await self._supervisor.end()
            self._supervisor = None
        self._held.close()

    def _choose_ports(self) -> None:
        wanted: dict[str, int] = {}
        for part, variables in _PORT_OF.items():
            external = part == "registry" and self.config.external_registry_url
            for variable, field in variables:
                port: int = getattr(self.config.ports, field)
                if part in self._names and port and not external:
                    wanted[variable] = port
                self._ports[field] = port or free_port()
        require_free(wanted)

    def _build_parts(self) -> list[Part]:
        config, ports = self.config, self._ports
        if "postgres" in self._names:
            self._postgres.choose_port()  # part of the URL that the others are told
        everything: list[Part] = [
            self._postgres,
            Kafka(
                self.run_dir,
                port=ports["kafka"],
                cache_dir=config.cache_dir,
                front=config.kafka_front,
            ),
            *self._own_parts(),
        ]
        if not config.external_registry_url:
            registry = Registry(
                self.run_dir,
                port=ports["registry"],
                cache_dir=config.cache_dir,
                version=config.registry_version,
                chosen=config.registry_binary,
                notification_url=config.notification_url or self.webhook_url,
                token=self.webhook_token,
            )
            everything.append(registry)
        return [part for part in everything if part.name in self._names]

    def _own_parts(self) -> list[Part]:
        consumer_port = free_port()
        env = {
            **self.environment,
            "RQ_WEBHOOK_TOKENS": self.webhook_token,
            "RQ_RECEIVER_PORT": str(self._ports["receiver"]),
            "RQ_RECEIVER_URL": f"http://{LOOPBACK}:{self._ports['receiver']}",
            "RQ_API_PORT": str(self._ports["api"]),
            "RQ_GRPC_PORT": str(self._ports["grpc"]),
            "RQ_CONSUMER_METRICS_PORT": str(consumer_port),
            # One that is started again after a crash has its partitions back at once.
            "RQ_KAFKA_GROUP_INSTANCE": "embedded",
            # All of it is on the loopback address.
            **dict.fromkeys(("RQ_TLS_CERT", "RQ_TLS_KEY", "RQ_CA_FILE"), ""),
            **self.config.settings,
        }

        def role(name: str, port: int) -> Role:
            return Role(
                name=name,
                argv=(*self.config.program, "serve", name),
                env=env,
                ready_url=f"http://{LOOPBACK}:{port}/readyz",
                needs=("migrate",),
            )

        return [
            Task(
                "migrate",
                argv=(*self.config.program, "migrate"),
                env=env,
                needs=("postgres", "kafka"),
            ),
            role("receiver", self._ports["receiver"]),
            role("consumer", consumer_port),
            role("api", self._ports["api"]),
        ]

    @property
    def database_url(self) -> str:
        """Postgres URL of the database `registry_quota`."""
        return self._postgres.url()

    @property
    def kafka_bootstrap(self) -> str:
        """`host:port` for Kafka clients."""
        return f"{LOOPBACK}:{self._ports['kafka']}"

    @property
    def registry_url(self) -> str:
        """Base URL of the registry, ours or the external one."""
        external = self.config.external_registry_url
        return external or f"http://{LOOPBACK}:{self._ports['registry']}"

    @property
    def registry_port(self) -> int:
        """The port that the registry listens on, or would."""
        return self._ports["registry"]

    @property
    def has_registry(self) -> bool:
        """Whether there is a registry, ours or an external one."""
        return self.config.external_registry_url is not None or self.pid("registry") is not None

    @property
    def webhook_url(self) -> str:
        """Where a registry sends its notifications."""
        return f"http://{LOOPBACK}:{self._ports['receiver']}/v1/notifications"

    @property
    def webhook_token(self) -> str:
        """Bearer token of the notifications."""
        return self.run_dir.secret("webhook_token")

    @property
    def environment(self) -> dict[str, str]:
        """What `.run/env` holds."""
        return {
            "RQ_WEBHOOK_URL": self.webhook_url,
            "RQ_WEBHOOK_TOKEN": self.webhook_token,
            "RQ_API_URL": f"http://{LOOPBACK}:{self._ports['api']}",
            "RQ_API_TOKEN": self.run_dir.secret("api_token"),
            "RQ_INTERNAL_API_KEY": self.run_dir.secret("internal_api_key"),
            "RQ_GRPC_TARGET": f"{LOOPBACK}:{self._ports['grpc']}",
            "RQ_REGISTRY_URL": self.registry_url,
            "RQ_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "RQ_DATABASE_URL": self.database_url,
        }

    def pid(self, part: str) -> int | None:
        """Process id of a part, None while it does not run."""
        return self._running[part].pid

    def kill(self, part: str) -> None:
        """SIGKILL a part (for tests); it is started again by itself."""
        self._running[part].kill()

    async def wait_until_answers(self, part: str, *, within: float = 30.0) -> None:
        """Return when a part answers (again). Raises TimeoutError after `within` seconds."""
        await asyncio.wait_for(self._running[part].answered.wait(), within)

    async def pause(self, part: str) -> None:
        """End a part and keep it away until `resume` (for tests of an outage)."""
        await self._running[part].end(within=5)

    async def resume(self, part: str) -> None:
        """Start a paused part; return when it answers."""
        await self._running[part].bring_up()

    @property
    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise StackError("this stack does not run")
        return self._supervisor
