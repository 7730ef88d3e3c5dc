"""Apache Kafka, one node (KRaft): its configuration, storage and process."""

import asyncio
import base64
import contextlib
import secrets
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient

from devstack.config import Front
from devstack.errors import StackError
from devstack.java import java_command
from devstack.parts import Part, Say, quiet
from devstack.ports import LOOPBACK, free_port
from devstack.processes import Launch, ended, run_tool, running
from devstack.rundir import RunDir, write_file

REQUEST_MAX_BYTES = 16 * 1024 * 1024
MESSAGE_MAX_BYTES = 9 * 1024 * 1024 + 64 * 1024
"""Largest record batch in bytes: a message of 9 MiB and what the batch adds to it."""

_LOG4J = """\
<Configuration status="WARN" shutdownHook="disable">
  <Appenders>
    <Console name="out"><PatternLayout pattern="%d{ISO8601} %-5p %c{1}: %m%n"/></Console>
  </Appenders>
  <Loggers>
    <Root level="WARN"><AppenderRef ref="out"/></Root>
    <Logger name="kafka.server.KafkaRaftServer" level="INFO"/>
    <Logger name="org.apache.kafka.storage.internals.log.UnifiedLog" level="ERROR"/>
    <Logger name="state.change.logger" level="ERROR"/>
  </Loggers>
</Configuration>
"""


def server_properties(
    *, data: Path, port: int, controller_port: int, front: Front | None = None
) -> dict[str, str]:
    """The broker's configuration: one node, small machine, messages up to 9 MiB."""
    values: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "message.max.bytes": MESSAGE_MAX_BYTES,
        "replica.fetch.max.bytes": REQUEST_MAX_BYTES,
        "replica.fetch.response.max.bytes": REQUEST_MAX_BYTES,
        "socket.request.max.bytes": REQUEST_MAX_BYTES,
        # One node holds the only replica of everything.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # After a SIGKILL the broker may register again only when its old session has run out.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        # A lone consumer need not wait for others to join.
        "group.initial.rebalance.delay.ms": 0,
        "num.network.threads": 3,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        # Committed offsets outlive a long holiday.
        "offsets.retention.minutes": 60 * 24 * 365,
    }
    if front:
        values["listeners"] = f"{values['listeners']},FRONT://{LOOPBACK}:{front.listens}"
        values["advertised.listeners"] = (
            f"{values['advertised.listeners']},FRONT://{LOOPBACK}:{front.advertised}"
        )
        values["listener.security.protocol.map"] = (
            f"{values['listener.security.protocol.map']},FRONT:PLAINTEXT"
        )
    return {key: str(value) for key, value in values.items()}


async def kafka_java(cache_dir: Path, say: Say) -> tuple[str, ...]:
    """Java with Kafka's classes; what the cache lacks is fetched and made. Raises StackError."""
    return await java_command(cache_dir, _train, say)


class Kafka(Part):
    """A broker with its controller in one JVM, its data below the run dir."""

    def __init__(
        self, run_dir: RunDir, *, port: int, cache_dir: Path, front: Front | None = None
    ) -> None:
        self.name = "kafka"
        self.port = port
        self._cache_dir = cache_dir
        self._node = Node(run_dir.data("kafka"), port=port, front=front)
        self._jvm: tuple[str, ...] = ()

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{LOOPBACK}:{self.port}"

    async def prepare(self, say: Say) -> None:
        """Fetch the jars if the cache lacks them; format the storage at the first start."""
        self._jvm = await kafka_java(self._cache_dir, say)
        await self._node.format_once(self._jvm, say)

    def launch(self) -> Launch:
        """The JVM itself."""
        return Launch(argv=self._node.command(self._jvm))

    async def answers(self) -> None:
        """Ask for metadata, as a client does first."""
        await answers(self.port)


class Node:
    """The configuration and storage of one broker in a folder of its own."""

    def __init__(self, folder: Path, *, port: int, front: Front | None = None) -> None:
        self._folder = folder
        self._port = port
        self._front = front
        self._properties = folder / "server.properties"

    async def format_once(self, jvm: tuple[str, ...], say: Say) -> None:
        """Format the storage unless an earlier start did."""
        self._configure()
        if self._is_formatted():
            return
        say("kafka: formatting the storage")
        raw = bytearray(secrets.token_bytes(16))
        raw[0] &= 0x7F  # else one in 64 begins with "-", which the tool takes for an option
        cluster_id = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        await run_tool(
            [
                *(*jvm, "kafka.tools.StorageTool", "format", "--ignore-formatted"),
                *("-t", cluster_id, "-c", self._properties),
            ],
            what="formatting Kafka's storage",
        )

    def command(self, jvm: tuple[str, ...]) -> tuple[str, ...]:
        """Command line of the broker. The controller's port is chosen anew for every start."""
        self._configure()
        program, *rest = jvm
        log4j = f"-Dlog4j2.configurationFile={self._folder / 'log4j2.xml'}"
        return (program, log4j, *rest, "kafka.Kafka", str(self._properties))

    def _configure(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        values = server_properties(
            data=self._folder / "log",
            port=self._port,
            controller_port=free_port(),
            front=self._front,
        )
        lines = "".join(f"{key}={value}\n" for key, value in values.items())
        write_file(self._properties, lines, mode=0o600)
        write_file(self._folder / "log4j2.xml", _LOG4J, mode=0o600)

    def _is_formatted(self) -> bool:
        return (self._folder / "log" / "meta.properties").exists()


async def answers(port: int) -> None:
    """Return when the broker on `port` answers with metadata that names it; raises otherwise."""
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.close()  # aiokafka logs refused connections loudly: ask it only behind an open port
    await writer.wait_closed()
    client = AIOKafkaClient(bootstrap_servers=f"{LOOPBACK}:{port}", request_timeout_ms=3000)
    try:
        await client.bootstrap()
        if not client.cluster.brokers():
            raise StackError("kafka has no broker yet")
    finally:
        await client.close()


async def _train(folder: Path, jvm: tuple[str, ...], recording: tuple[str, ...]) -> None:
    """Start a broker, use it as our programs do, and end it: what Java loads meanwhile it remembers."""
    port = free_port()
    node = Node(folder, port=port)
    await node.format_once(jvm, quiet)
    async with running(node.command(recording)) as process:
        while process.poll() is None:
            with contextlib.suppress(Exception):
                await answers(port)
                break
            await asyncio.sleep(0.1)
        await _use(f"{LOOPBACK}:{port}")
        process.terminate()
        await asyncio.wait_for(ended(process), 60)


async def _use(bootstrap: str) -> None:
    """Create a topic, produce to it and consume as a group."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("training", num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for _ in range(200):
            await producer.send_and_wait("training", b"value", key=b"key")
    consumer = AIOKafkaConsumer(
        "training", bootstrap_servers=bootstrap, group_id="training", auto_offset_reset="earliest"
    )
    async with consumer:
        await asyncio.wait_for(consumer.getone(), 30)
        await consumer.commit()
