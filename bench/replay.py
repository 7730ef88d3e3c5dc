"""The running system takes a backlog: envelopes over HTTP, then the ledger catches up."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.load import envelope, events
from devstack.config import StackConfig
from devstack.stack import ALL, Stack

_CONNECTIONS = 32
_LONGEST = 300.0
_OTHERS = ("receiver", "api", "kafka", "postgres", "registry")


async def replay(count: int, *, seed: int) -> dict[str, Any]:
    """Figures of one replay: events per second of receiver and consumer, memory of each process."""
    bodies = [envelope(event) for event in events(count, seed=seed)]
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder), registry_version="2")
        # The consumer is started by hand, after the receiver was measured: one at a time.
        parts = [part for part in ALL if part != "consumer"]
        async with Stack(config, parts=parts, say=print) as stack:
            return await _measure(stack, bodies)


async def _measure(stack: Stack, bodies: list[bytes]) -> dict[str, Any]:
    environment = stack.environment
    headers = {"Authorization": f"Bearer {environment['RQ_WEBHOOK_TOKEN']}"}
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        waiting = iter(bodies)
        refused = 0

        async def deliver() -> None:
            nonlocal refused
            for body in waiting:
                async with session.post(
                    environment["RQ_WEBHOOK_URL"], data=body, headers=headers
                ) as answer:
                    refused += answer.status != 202

        began = time.perf_counter()
        await asyncio.gather(*(deliver() for _ in range(_CONNECTIONS)))
        received = time.perf_counter() - began
        with consuming(stack) as consumer:
            await _recorded_at_least(session, environment, 1)
            began = time.perf_counter()
            first = await _recorded(session, environment)
            cpu = sum(consumer.cpu_times()[:2])
            await _recorded_at_least(session, environment, len(bodies) - refused)
            consumed = time.perf_counter() - began
            cpu = sum(consumer.cpu_times()[:2]) - cpu
            memory = {"consumer": _mib(consumer)}
        memory |= {part: _mib(psutil.Process(stack.pid(part))) for part in _OTHERS}
    counted = len(bodies) - refused - first
    return {
        "events": len(bodies),
        "refused": refused,
        "bytes_per_envelope": sum(map(len, bodies)) // len(bodies),
        "receiver_events_per_second": round(len(bodies) / received),
        "consumer_events_per_second": round(counted / consumed),
        "consumer_cpu_seconds_per_10000": round(cpu / counted * 10_000, 2),
        "memory_mib": memory,
    }


@contextmanager
def consuming(stack: Stack) -> Iterator[psutil.Process]:
    """The consumer, as a process of its own."""
    environment = {**os.environ, **stack.environment, "RQ_LOG_LEVEL": "warning"}
    argv = [sys.executable, "-m", "cli.main", "serve", "consumer"]
    with subprocess.Popen(argv, env=environment) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def _mib(process: psutil.Process) -> int:
    return round(process.memory_info().rss / 2**20)


async def _recorded_at_least(
    session: aiohttp.ClientSession, environment: Mapping[str, str], count: int
) -> None:
    until = time.perf_counter() + _LONGEST
    while await _recorded(session, environment) < count:
        if time.perf_counter() > until:
            raise TimeoutError(f"the ledger did not reach {count} events within {_LONGEST} s")
        await asyncio.sleep(0.02)


async def _recorded(session: aiohttp.ClientSession, environment: Mapping[str, str]) -> int:
    headers = {"Authorization": f"Bearer {environment['RQ_API_TOKEN']}"}
    async with session.get(f"{environment['RQ_API_URL']}/v1/status", headers=headers) as answer:
        status = await answer.json()
    return sum(item["next_offset"] for item in status["partitions"])
