"""A Kafka of one's own that wants TLS, and users with passwords and rights.

`USER`, and whoever comes by a listener that asks nobody who they are, may everything; the others may what
they were given.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from devstack.kafka import kafka_java, server_properties
from devstack.ports import LOOPBACK, free_port
from devstack.processes import run_tool, running
from tests.support.certificates import Pair
from tests.support.waiting import wait_until

USER, PASSWORD = "quota", "a-password-of-a-test"
RESTRICTED = ("rq_migrate", "rq_receiver", "rq_consumer", "rq_api", "rq_operator", "rq_alerts")
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


class SecureKafka:
    """Its listeners, as `host:port`; a second one shows a certificate for another name."""

    def __init__(self) -> None:
        self._ports = {name: free_port() for name in ("SSL", "SASL_SSL", "MISNAMED", "INTERNAL")}

    @property
    def ssl(self) -> str:
        """TLS, nobody is asked who they are."""
        return f"{LOOPBACK}:{self._ports['SSL']}"

    @property
    def sasl(self) -> str:
        """TLS, and a user by PLAIN or SCRAM-SHA-256."""
        return f"{LOOPBACK}:{self._ports['SASL_SSL']}"

    @property
    def misnamed(self) -> str:
        """TLS, with a certificate for another name."""
        return f"{LOOPBACK}:{self._ports['MISNAMED']}"

    @property
    def plain(self) -> str:
        """No TLS."""
        return f"{LOOPBACK}:{self._ports['INTERNAL']}"

    def configure(self, folder: Path, pair: Pair, misnamed: Pair) -> Path:
        """The embedded stack's configuration with other listeners, as a file in a new folder."""
        folder.mkdir(parents=True)
        controller = free_port()
        values = server_properties(data=folder / "log", port=0, controller_port=controller)
        addresses = [f"{name}://{LOOPBACK}:{port}" for name, port in self._ports.items()]
        values |= {
            "listeners": ",".join([*addresses, f"CONTROLLER://{LOOPBACK}:{controller}"]),
            "advertised.listeners": ",".join(addresses),
            "listener.security.protocol.map": (
                "SSL:SSL,SASL_SSL:SASL_SSL,MISNAMED:SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "inter.broker.listener.name": "INTERNAL",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": " ".join(
                [
                    _PLAIN,
                    "required",
                    *(f'user_{name}="{PASSWORD}"' for name in (USER, *RESTRICTED)),
                ]
            )
            + ";",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER}",
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": f"{_SCRAM} required;",
        }
        for prefix, shown in (("", pair), ("listener.name.misnamed.", misnamed)):
            store = folder / f"{shown.key.stem}.store.pem"
            store.write_bytes(shown.key.read_bytes() + shown.certificate.read_bytes())
            values |= {
                f"{prefix}ssl.keystore.type": "PEM",
                f"{prefix}ssl.keystore.location": str(store),
            }
        configuration = folder / "server.properties"
        configuration.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        return configuration


@asynccontextmanager
async def secure_kafka(
    folder: Path, cache_dir: Path, pair: Pair, misnamed: Pair
) -> AsyncIterator[SecureKafka]:
    """Start it; it is gone afterwards."""
    kafka = SecureKafka()
    configuration = kafka.configure(folder, pair, misnamed)

    jvm = await kafka_java(cache_dir, lambda _line: None)
    await run_tool(
        [
            *(*jvm, "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAQ"),
            *("-c", configuration),
            *("--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"),
        ],
        what="formatting Kafka's storage",
    )
    async with running((*jvm, "kafka.Kafka", str(configuration))) as process:

        async def listens() -> bool:
            assert process.poll() is None, "Kafka ended"
            try:
                _, writer = await asyncio.open_connection(*kafka.sasl.split(":"))
            except OSError:
                return False
            writer.close()
            return True

        await wait_until(listens, 30, what="Kafka listens")
        yield kafka
