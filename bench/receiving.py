"""P1 and P2: how fast deliveries are acknowledged, beside the bare limit and Bento.

All three stand ready on one broker and are asked in turn, repetition by repetition. Whatever was
answered 202 has to be in the topic.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.limits import bento
from bench.measuring import Meter, memory_mib
from bench.processes import running, taking
from devstack.config import StackConfig
from devstack.ports import free_port
from devstack.stack import Stack
from runtime.kafka import NOTIFICATIONS_TOPIC

_TOPIC = "bench.limits"
"""Of the others: theirs is not counted as ours."""

Say = Callable[[str], None]


class Door(NamedTuple):
    """A program that takes deliveries; several processes of it have a port each."""

    name: str
    ports: tuple[int, ...]
    processes: tuple[psutil.Process, ...]
    topic: str
    token: str


class Mode(NamedTuple):
    """A kind of load: arguments of `bench.knocking`."""

    name: str
    arguments: tuple[str, ...]


ACKNOWLEDGING = (
    Mode("P1 one at a time, new connection each", ("--connections", "1")),
    Mode("P1 one at a time, keep-alive", ("--connections", "1", "--keep-alive")),
    Mode("P1 open loop, 200/s, new connection each", ("--rate", "200")),
)
THROUGHPUT = (
    Mode("P2 64 connections, keep-alive", ("--connections", "64", "--keep-alive")),
    Mode("P2 256 connections, keep-alive", ("--connections", "256", "--keep-alive")),
    Mode("P2 64, new connection each", ("--connections", "64")),
)


@asynccontextmanager
async def doors(say: Say, *, twice: bool) -> AsyncIterator[tuple[Stack, list[Door]]]:
    """Receiver, bare limit and Bento (where it can be had), warm, on one broker.

    With `twice` two receivers as well, as behind one address: Bento uses all cores, too.
    """
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder))
        async with (
            AsyncExitStack() as open_,
            Stack(config, parts=["postgres", "kafka", "migrate", "receiver"]) as stack,
        ):
            await _create_topic(stack.kafka_bootstrap)
            found = [_ours(stack)]
            if twice:
                found.append(_ours_twice(stack, open_))
            port = free_port()
            argv = [
                *(sys.executable, "-m", "bench.limits.receiver"),
                *(str(port), stack.kafka_bootstrap, _TOPIC),
            ]
            found.append(_door("bare", port, open_.enter_context(running(argv))))
            program = await bento.program(config.cache_dir, say)
            if program is not None:
                port = free_port()
                file = Path(folder) / "receiving.json"
                file.write_text(json.dumps(bento.receiving(port, stack.kafka_bootstrap, _TOPIC)))
                process = open_.enter_context(running([program, "-c", file]))
                found.append(_door("bento", port, process))
            for door in found:
                await _answers(door)
                await knock(door, ("--connections", "8", "--seconds", "2"))
            yield stack, found


async def _create_topic(bootstrap: str) -> None:
    """As many partitions as ours have."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(_TOPIC, num_partitions=12, replication_factor=1)])
    finally:
        await admin.close()


def _ours(stack: Stack) -> Door:
    port = int(stack.webhook_url.rsplit(":", 1)[1].split("/")[0])
    process = psutil.Process(stack.pid("receiver"))
    return Door("receiver", (port,), (process,), NOTIFICATIONS_TOPIC, stack.webhook_token)


def _ours_twice(stack: Stack, open_: AsyncExitStack) -> Door:
    """The stack's receiver and one more."""
    first, port = _ours(stack), free_port()
    environment = {
        **stack.environment,
        "RQ_RECEIVER_PORT": str(port),
        "RQ_WEBHOOK_TOKENS": stack.webhook_token,
        "RQ_LOG_LEVEL": "warning",
    }
    argv = [sys.executable, "-m", "cli.main", "serve", "receiver"]
    second = psutil.Process(open_.enter_context(running(argv, environment)).pid)
    return first._replace(
        name="2 receivers",
        ports=(*first.ports, port),
        processes=(*first.processes, second),
    )


def _door(name: str, port: int, process: "subprocess.Popen[bytes]") -> Door:
    return Door(name, (port,), (psutil.Process(process.pid),), _TOPIC, "none")


async def _answers(door: Door) -> None:
    """Return when it takes a delivery at every port."""
    for port in door.ports:
        url = f"http://127.0.0.1:{port}/v1/notifications"
        await taking(url, b'{"events": []}', door.token)


async def knock(door: Door, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What `bench.knocking` found."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.knocking", "--token", door.token),
        *("--ports", *map(str, door.ports)),
        *arguments,
        stdout=subprocess.PIPE,
    )
    out, _nothing = await process.communicate()
    found: dict[str, Any] = json.loads(out)
    return found


async def compare(
    modes: tuple[Mode, ...], repetitions: int, seconds: float, say: Say
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Mode → program → figures of each repetition."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    async with doors(say, twice=modes is THROUGHPUT) as (stack, programs):
        broker = psutil.Process(stack.pid("kafka"))
        for mode in modes:
            of_mode = found[mode.name] = {door.name: [] for door in programs}
            for number in range(repetitions):
                # Each is first as often as the others.
                for door in programs[number % len(programs) :] + programs[: number % len(programs)]:
                    before = await stored(stack.kafka_bootstrap, door.topic)
                    own = {f"program {n}": one for n, one in enumerate(door.processes)}
                    meter = Meter({**own, "broker": broker})
                    told = await knock(door, (*mode.arguments, "--seconds", str(seconds)))
                    cost = meter.stop()
                    kept = await stored(stack.kafka_bootstrap, door.topic) - before
                    if kept < told["answered"]:
                        raise RuntimeError(f"{door.name} answered {told['answered']}, has {kept}")
                    of_mode[door.name].append(_figures(told, cost, kept, door))
            say(f"{mode.name}: done")
    return found


def _figures(
    told: Mapping[str, Any], cost: Mapping[str, Any], kept: int, door: Door
) -> dict[str, Any]:
    answered = max(1, told["answered"])
    cpu = sum(seconds for name, seconds in cost.items() if name.startswith("cpu.program"))
    return {
        "events/s": told["events_per_second"],
        "p50 ms": told.get("p50_ms", float("nan")),
        "p99 ms": told.get("p99_ms", float("nan")),
        "refused": told["refused"] + told["failed"],
        "answered, not stored": max(0, told["answered"] - kept),
        "CPU s/10,000": cpu / answered * 1e4,
        "broker CPU s/10,000": cost["cpu.broker"] / answered * 1e4,
        "MiB": sum(map(memory_mib, door.processes)),
        "foreign CPU": cost["foreign"],
        "steal": cost["steal"],
    }


async def stored(bootstrap: str, topic: str) -> int:
    """Records of a topic, as its end offsets tell."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        return int(sum(ends.values()))
    finally:
        await consumer.stop()
