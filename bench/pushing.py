"""P4 and P7: from a push to the usage that is read, and one hot workspace.

The whole system runs; deliveries go over HTTP on a new connection each, as a registry's do.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil

from bench.load import artifacts, envelope
from bench.measuring import Meter, percentile
from devstack.config import StackConfig
from devstack.stack import Stack
from tests.support import ledgers

_PARTS = ("postgres", "kafka", "migrate", "receiver", "consumer", "api")
_RATE = 200
_PROBE_EVERY = 20
"""Pushes of which one is looked for in the usage."""
_POLL = 0.003
_LONGEST = 120.0

Say = Callable[[str], None]


@asynccontextmanager
async def system() -> AsyncIterator[tuple[Stack, aiohttp.ClientSession]]:
    """The running system, and a client that opens a connection for each request."""
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        settings = {"RQ_LOG_LEVEL": "warning"}
        config = StackConfig.for_tests(Path(folder), settings=settings)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            Stack(config, parts=_PARTS) as stack,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            yield stack, session


async def deliver(session: aiohttp.ClientSession, stack: Stack, body: bytes) -> bool:
    """Whether it was acknowledged."""
    headers = {"Authorization": f"Bearer {stack.webhook_token}"}
    async with session.post(stack.webhook_url, data=body, headers=headers) as answer:
        return answer.status == 202


async def lag(repetitions: int, seconds: float, seed: int, say: Say) -> list[dict[str, Any]]:
    """P4: open loop of pushes; from when one was due until the API tells its bytes, milliseconds."""
    found = []
    async with system() as (stack, session):
        for number in range(repetitions):
            meter = Meter(_processes(stack))
            times = await _lag(stack, session, seconds, seed + number)
            cost = meter.stop()
            found.append(
                {
                    "pushes/s": _RATE,
                    "p50 ms": percentile(times, 0.5),
                    "p99 ms": percentile(times, 0.99),
                    "max ms": max(times),
                    "receiver CPU share": cost["cpu.receiver"] / cost["seconds"],
                    "consumer CPU share": cost["cpu.consumer"] / cost["seconds"],
                    "foreign CPU": cost["foreign"],
                    "steal": cost["steal"],
                }
            )
            say(f"P4: p99 {found[-1]['p99 ms']:.0f} ms")
    return found


async def _lag(
    stack: Stack, session: aiohttp.ClientSession, seconds: float, seed: int
) -> list[float]:
    times: list[float] = []
    under_way: set[asyncio.Task[None]] = set()
    headers = {"Authorization": f"Bearer {stack.environment['RQ_API_TOKEN']}"}
    async with aiohttp.ClientSession(stack.environment["RQ_API_URL"], headers=headers) as api:

        async def push(number: int, due: float) -> None:
            probe = number % _PROBE_EVERY == 0
            workspace = f"probe{seed}x{number}" if probe else f"busy{number % 50}"
            pushed, size = next(artifacts(1, seed=seed * 100_000 + number, workspace=workspace))
            # The blobs' events come before; the manifest's is what is measured.
            if not await deliver(session, stack, envelope(pushed[-1])):
                raise RuntimeError("a delivery was refused")
            while probe:
                async with api.get(f"/v1/workspaces/{workspace}/usage") as answer:
                    if answer.status == 200 and (await answer.json())["usage_bytes"] == size:
                        times.append((time.perf_counter() - due) * 1000)
                        return
                if time.perf_counter() - due > _LONGEST:
                    raise TimeoutError(f"{workspace} is not in the account")
                await asyncio.sleep(_POLL)

        began = time.perf_counter()
        for number in range(int(_RATE * seconds)):
            due = began + number / _RATE
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(push(number, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return times


async def hot(
    repetitions: int, images: int, pushers: int, blobs: int, seed: int, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """P7: one workspace, `images` by concurrent pushers; then one image of so many `blobs`."""
    found: dict[str, list[dict[str, Any]]] = {}
    async with system() as (stack, session), asyncpg.create_pool(stack.database_url) as pool:
        for number in range(repetitions):
            name = f"hot{number}"
            load = artifacts(images, seed=seed + number, workspace=name)
            found.setdefault(f"{images} artifacts by {pushers} pushers", []).append(
                await _burst(stack, session, pool, name, list(load), pushers)
            )
            name = f"burst{number}"
            load = artifacts(1, seed=-1 - number, workspace=name, layers=blobs)
            found.setdefault(f"one image of {blobs} blobs, at once", []).append(
                await _burst(stack, session, pool, name, _each(load), pushers)
            )
            say(f"P7: {found[next(iter(found))][-1]}")
    return found


def _each(
    load: Iterator[tuple[list[dict[str, Any]], int]],
) -> list[tuple[list[dict[str, Any]], int]]:
    """Every event by itself, so that all go out at once."""
    return [
        ([event], size if at == 0 else 0)
        for pushed, size in load
        for at, event in enumerate(pushed)
    ]


async def _burst(
    stack: Stack,
    session: aiohttp.ClientSession,
    pool: Any,
    workspace: str,
    load: list[tuple[list[dict[str, Any]], int]],
    pushers: int,
) -> dict[str, Any]:
    expected = sum(size for _pushed, size in load)
    waiting = iter(load)
    failed, slowest = 0, 0.0

    async def pusher() -> None:
        nonlocal failed, slowest
        for pushed, _size in waiting:
            for event in pushed:
                began = time.perf_counter()
                failed += not await deliver(session, stack, envelope(event))
                slowest = max(slowest, time.perf_counter() - began)

    meter = Meter(_processes(stack))
    began = time.perf_counter()
    await asyncio.gather(*(pusher() for _ in range(pushers)))
    sent = time.perf_counter()
    query = "SELECT usage_bytes FROM workspaces WHERE name = $1"
    while await pool.fetchval(query, workspace) != expected:
        if time.perf_counter() - sent > _LONGEST:
            raise TimeoutError(f"{workspace} does not reach {expected} bytes")
        await asyncio.sleep(0.01)
    caught_up = time.perf_counter()
    cost = meter.stop()
    usage, recount = await ledgers.usage(pool), await ledgers.recount(pool)
    return {
        "events": sum(len(pushed) for pushed, _size in load),
        "failed": failed,
        "drift bytes": abs(usage[workspace] - recount[workspace]),
        "seconds to send": sent - began,
        "slowest acknowledgement s": slowest,
        "lag back to 0 after s": caught_up - sent,
        "consumer CPU s": cost["cpu.consumer"],
        "foreign CPU": cost["foreign"],
        "steal": cost["steal"],
    }


def _processes(stack: Stack) -> Mapping[str, psutil.Process]:
    return {
        name: psutil.Process(stack.pid(name))
        for name in ("postgres", "kafka", "receiver", "consumer", "api")
    }
