"""How long each HTTP door takes to answer: p50 and p99 at concurrency 1 and 32.

`python -m bench.doors`: the real processes, the client in a process of its own on the same cores; a
workspace of 1,000 images and 9 others. Every answer is read whole and has the expected status.
"""

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.load import envelope, events
from devstack.config import StackConfig
from devstack.stack import Stack

RESULTS = Path(__file__).parent / "results"
_CONCURRENCY = (1, 32)
_IMAGES = 1000


class Door(NamedTuple):
    """One kind of request. `body` makes a new one each time."""

    name: str
    method: str
    url: str
    token: str
    status: int
    body: Callable[[], bytes] | None = None
    share: float = 1.0
    """Of the usual number of requests."""


def doors(environment: dict[str, str], token: str) -> list[Door]:
    """Every door, with the caller that knocks there."""
    api, operator = environment["RQ_API_URL"], environment["RQ_API_TOKEN"]
    internal = environment["RQ_INTERNAL_API_KEY"]
    workspace, platform = f"{api}/v1/workspaces/bench", f"{api}/api/internal"
    backlog = iter(events(1_000_000, seed=7, workspaces=9))

    def hook(**more: str) -> Callable[[], bytes]:
        return lambda: json.dumps(
            {"workspace": "bench", "app": "a1", "incoming_bytes": 1000} | more
        ).encode()

    def reserving() -> bytes:
        return hook(build_id=uuid.uuid4().hex)()

    return [
        Door(
            "POST /v1/notifications",
            "POST",
            environment["RQ_WEBHOOK_URL"],
            environment["RQ_WEBHOOK_TOKEN"],
            202,
            lambda: envelope(next(backlog)),
        ),
        Door(
            "POST /v1/hooks/pre-build", "POST", f"{api}/v1/hooks/pre-build", operator, 200, hook()
        ),
        Door(
            "… with build_id (reserves)",
            "POST",
            f"{api}/v1/hooks/pre-build",
            operator,
            200,
            reserving,
        ),
        Door("… with a created token", "POST", f"{api}/v1/hooks/pre-build", token, 200, hook()),
        Door("GET /v1/workspaces", "GET", f"{api}/v1/workspaces", operator, 200),
        Door("GET …/{workspace}", "GET", workspace, operator, 200),
        Door("GET …/usage", "GET", f"{workspace}/usage", operator, 200),
        Door("GET …/images?limit=100", "GET", f"{workspace}/images", operator, 200, share=0.1),
        Door("GET …/events", "GET", f"{workspace}/events", operator, 200, share=0.3),
        Door("GET …/history", "GET", f"{workspace}/history", operator, 200, share=0.3),
        Door(
            "POST …/cleanup-plans", "POST", f"{workspace}/cleanup-plans", operator, 200, share=0.05
        ),
        Door("GET /v1/status", "GET", f"{api}/v1/status", operator, 200, share=0.3),
        Door(
            "GET internal registry-usage",
            "GET",
            f"{platform}/workspaces/bench/registry-usage",
            internal,
            200,
        ),
        Door(
            f"GET internal registry-images ({_IMAGES})",
            "GET",
            f"{platform}/workspaces/bench/registry-images",
            internal,
            200,
            share=0.05,
        ),
        Door(
            "POST internal registry-images",
            "POST",
            f"{platform}/registry-images",
            internal,
            201,
            lambda: record("told", uuid.uuid4().hex),
            share=0.3,
        ),
        Door("GET /openapi.json", "GET", f"{api}/openapi.json", operator, 200),
        Door("GET /healthz", "GET", f"{api}/healthz", operator, 200),
    ]


def record(workspace: str, name: str) -> bytes:
    """A record of the internal API; one tag an image."""
    document = {
        "workspace": workspace,
        "app": f"a{int(name[:2], 16) % 10}",
        "tag": name,
        "digest": f"sha256:{name * 2}",
        "sizeBytes": 1_000_000,
    }
    return json.dumps(document).encode()


async def measure(
    session: aiohttp.ClientSession, door: Door, concurrency: int, count: int
) -> dict[str, float]:
    """Milliseconds from the request to the last byte of its answer."""
    headers = {"Authorization": f"Bearer {door.token}", "Content-Type": "application/json"}
    taken: list[float] = []
    waiting = iter(range(count))

    async def knock() -> None:
        for _ in waiting:
            body = None if door.body is None else door.body()
            began = time.perf_counter()
            async with session.request(door.method, door.url, data=body, headers=headers) as answer:
                await answer.read()
                taken.append(time.perf_counter() - began)
                if answer.status not in {door.status, 200 if door.status == 201 else door.status}:
                    raise RuntimeError(f"{door.name}: {answer.status} {await answer.text()}")

    began = time.perf_counter()
    await asyncio.gather(*(knock() for _ in range(concurrency)))
    seconds = time.perf_counter() - began
    taken.sort()
    return {
        "requests": count,
        "p50_ms": round(taken[len(taken) // 2] * 1000, 2),
        "p99_ms": round(taken[min(len(taken) - 1, len(taken) * 99 // 100)] * 1000, 2),
        "per_second": round(count / seconds),
    }


async def run(count: int) -> dict[str, dict[str, dict[str, float]]]:
    """Door → concurrency → figures."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder), registry_version="2")
        connector = aiohttp.TCPConnector(limit=64)
        async with (
            Stack(config, say=print) as stack,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            token = await fill(session, stack.environment)
            for door in doors(dict(stack.environment), token):
                await measure(session, door, 4, max(8, int(count * door.share) // 10))
                found[door.name] = {
                    str(concurrency): await measure(
                        session, door, concurrency, max(50, int(count * door.share))
                    )
                    for concurrency in _CONCURRENCY
                }
                print(door.name, found[door.name])
    return found


async def fill(session: aiohttp.ClientSession, environment: Any) -> str:
    """A workspace with images; the text of a token for it."""
    api = environment["RQ_API_URL"]
    headers = {"Authorization": f"Bearer {environment['RQ_API_TOKEN']}"}
    for number in range(_IMAGES):
        body = record("bench", f"{number:032x}"[::-1])
        async with session.post(
            f"{api}/api/internal/registry-images", data=body, headers=headers
        ) as answer:
            answer.raise_for_status()
    for number in range(9):
        async with session.patch(
            f"{api}/v1/workspaces/ws{number}", json={"quota_bytes": 10**13}, headers=headers
        ) as answer:
            answer.raise_for_status()
    body_ = {"scopes": ["hook"], "workspaces": ["bench"]}
    async with session.post(f"{api}/v1/tokens", json=body_, headers=headers) as answer:
        return str((await answer.json())["token"])


def main() -> None:
    """Measure, print a table, keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.doors")
    parser.add_argument("--requests", type=int, default=1000, help="for a quick door")
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments.requests))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"doors-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(found, indent=2))
    table = Table("door", "p50 at 1", "p99 at 1", "p50 at 32", "p99 at 32", "per s at 32")
    for name, figures in found.items():
        one, many = (figures[str(concurrency)] for concurrency in _CONCURRENCY)
        cells = (one["p50_ms"], one["p99_ms"], many["p50_ms"], many["p99_ms"], many["per_second"])
        table.add_row(name, *map(str, cells))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
