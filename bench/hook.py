"""Pre-build hook: latency while nothing has to be cleaned, as a workspace grows. `python -m bench.hook`.

Beside it, through the same server: one INSERT with commit, because a reservation is durable, and
`SELECT 1`, because a build without an id reserves nothing; and both of these behind the smallest HTTP
door, asked by the same client. Calls alternate within a round.
First, two builds that fit alone but not together race for a strict workspace, again and again.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from bench.processes import running, taking
from devstack.config import StackConfig
from devstack.ports import free_port
from devstack.stack import ALL, Stack
from ledger.facts import BlobStored, Content, ManifestPushed
from ledger.record import Recorder
from quota.levels import level
from registry.workspaces import WorkspaceRule
from runtime.postgres import Pool, open_pool
from runtime.settings import Settings

RESULTS = Path(__file__).parent / "results"
_WORKSPACE = "bench"
_OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
_BATCH = 1000
_OPEN_BUILDS = 20
"""Builds that hold a reservation at a time."""
_WARM_UP = 30
DOOR_INSERT = "the smallest door, INSERT with commit"
DOOR_SELECT = "the smallest door, SELECT 1"

Call = Callable[[int], Awaitable[object]]


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.hook")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--calls", type=int, default=300, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--races", type=int, default=200)
    arguments = parser.parse_args()
    races, rows = asyncio.run(
        run(sorted(arguments.images), arguments.calls, arguments.rounds, arguments.races)
    )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"hook-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"cpus": os.cpu_count(), "races": races, "rows": rows}, indent=2))
    table = Table(title="milliseconds: median over the rounds (smallest, largest)")
    for name in ("images", "call", "p50", "p99"):
        table.add_column(name, justify="right" if name != "call" else "left")
    for row in rows:
        table.add_row(f"{row['images']:,}", row["call"], *(_told(row[q]) for q in ("p50", "p99")))
    Console(width=120).print(table)
    print(f"races of two builds, by how many were let through: {races}")
    print(f"written to {path.name}")


def _told(figures: list[float]) -> str:
    return f"{statistics.median(figures):.2f} ({min(figures):.2f}, {max(figures):.2f})"


async def run(
    sizes: list[int], calls: int, rounds: int, races: int
) -> tuple[dict[int, int], list[dict[str, Any]]]:
    """Races by how many were let through, and a row for each size and kind of call (milliseconds)."""
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder), registry_version="any")
        parts = [part for part in ALL if part not in {"consumer", "receiver"}]
        async with Stack(config, parts=parts, say=print) as stack:
            environment = stack.environment
            headers = {"Authorization": f"Bearer {environment['RQ_API_TOKEN']}"}
            pool = await open_pool(environment["RQ_DATABASE_URL"], size=2, name="bench")
            await pool.execute("CREATE TABLE bench_rows (id int8, note text, at timestamptz)")
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                _door(environment) as door,
            ):
                raced = await _race(session, environment["RQ_API_URL"], races)
                kinds = _kinds(session, environment["RQ_API_URL"], door, pool)
                images = Images(pool)
                rows = []
                for size in sizes:
                    await images.grow(size)
                    await _configure(session, environment["RQ_API_URL"])
                    rows += await _measure(kinds, size, calls, rounds)
            await pool.close()
    return raced, rows


@asynccontextmanager
async def _door(environment: Mapping[str, str]) -> AsyncIterator[str]:
    """The smallest door: its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "bench.limits.door"]
    with running([*argv, environment["RQ_DATABASE_URL"], environment["RQ_API_TOKEN"], port]):
        await taking(f"{url}/select", b'{"n": 0}', environment["RQ_API_TOKEN"])
        yield url


async def _race(session: aiohttp.ClientSession, api: str, races: int) -> dict[int, int]:
    """How many of two builds were let through → how often; 1 is the only good key."""
    workspace = f"{api}/v1/workspaces/race"
    async with session.put(workspace, json={"quota_bytes": 1000, "enforcement": "strict"}) as put:
        put.raise_for_status()

    async def ask(build: str) -> bool:
        body = {"workspace": "race", "app": "api", "build_id": build, "incoming_bytes": 600}
        async with session.post(f"{api}/v1/hooks/pre-build", json=body) as answer:
            return bool((await answer.json())["decision"] == "proceed")

    outcomes: Counter[int] = Counter()
    for _race in range(races):
        outcomes[sum(await asyncio.gather(ask("one"), ask("two")))] += 1
        for build in ("one", "two"):
            async with session.delete(f"{workspace}/reservations/{build}"):
                pass
    return dict(outcomes)


class Images:
    """One workspace of real-shaped images: ten layers each, three of them shared."""

    def __init__(self, pool: Pool) -> None:
        self._recorder = Recorder(
            pool,
            rule=WorkspaceRule(Settings.model_fields["workspace_pattern"].default),
            default_quota_bytes=2**50,
            level_of=level,
        )
        self._chance = random.Random(4711)
        self._count = 0

    async def store(self) -> None:
        """Storage tells the size of every blob, as its own push does."""
        for number in range(0, 10 * self._count, _BATCH):
            facts = [
                BlobStored(blob_digest("own", blob), 5_000_000)
                for blob in range(number, number + _BATCH)
                if blob % 10 < 7  # those that every image has
            ]
            await self._recorder.record(facts, now=datetime.now(UTC))

    async def grow(self, count: int) -> None:
        """Push until there are so many."""
        began = time.perf_counter()
        while self._count < count:
            batch = min(_BATCH, count - self._count)
            facts = [self._image(self._count + number) for number in range(batch)]
            await self._recorder.record(facts, now=datetime.now(UTC))
            self._count += batch
        print(f"{count:,} images after {time.perf_counter() - began:.0f} s")

    def _image(self, number: int) -> ManifestPushed:
        layers = {self._chance.randrange(200) for _ in range(3)}
        blobs = [blob_digest("shared", layer) for layer in layers]
        blobs += [blob_digest("own", number * 10 + layer) for layer in range(10 - len(layers))]
        return ManifestPushed(
            "default",
            f"{_WORKSPACE}/app{number % 100}",
            blob_digest("manifest", number),
            (time.time_ns(), number.to_bytes(16, "big")),
            _OCI_IMAGE,
            2000,
            f"v{number}",
            Content(blobs=tuple((digest, 5_000_000) for digest in blobs)),
        )


def blob_digest(kind: str, number: int) -> bytes:
    """Of the blob that the images call so."""
    return hashlib.sha256(f"{kind} {number}".encode()).digest()


async def _configure(session: aiohttp.ClientSession, api: str) -> None:
    url = f"{api}/v1/workspaces/{_WORKSPACE}"
    async with session.patch(url, json={"quota_bytes": 2**55}) as answer:
        answer.raise_for_status()


def _kinds(session: aiohttp.ClientSession, api: str, door: str, pool: Pool) -> dict[str, Call]:
    async def knock(path: str, number: int) -> None:
        body = {"workspace": _WORKSPACE, "n": number}
        async with session.post(f"{door}/{path}", json=body) as answer:
            answer.raise_for_status()
            await answer.json()

    async def hook(**build: Any) -> None:
        url = f"{api}/v1/hooks/pre-build"
        async with session.post(url, json={"workspace": _WORKSPACE, **build}) as answer:
            document = await answer.json()
            if document["reason"] != "below_threshold":
                raise SystemExit(f"the hook had something to do: {document}")

    layers = [
        {"digest": f"sha256:{blob_digest(kind, number).hex()}", "size": 5_000_000}
        for number in range(5)
        for kind in ("shared", "new")
    ]
    insert = "INSERT INTO bench_rows VALUES ($1, $2, now())"
    return {
        "hook that reserves": lambda n: hook(
            app="app1", build_id=f"b{n % _OPEN_BUILDS}", incoming_bytes=1000
        ),
        "hook that reserves, 10 layers": lambda n: hook(
            app="app1", build_id=f"b{n % _OPEN_BUILDS}", layers=layers
        ),
        "hook without build_id, estimate": lambda _n: hook(app="app1"),
        "hook without build_id": lambda _n: hook(incoming_bytes=1000),
        DOOR_INSERT: lambda n: knock("insert", n),
        DOOR_SELECT: lambda n: knock("select", n),
        "INSERT with commit": lambda n: pool.execute(insert, n, "note"),
        "SELECT 1": lambda _n: pool.fetchval("SELECT 1"),
    }


async def _measure(
    kinds: dict[str, Call], images: int, calls: int, rounds: int
) -> list[dict[str, Any]]:
    for call in kinds.values():
        for number in range(_WARM_UP):
            await call(number)
    found: dict[str, dict[str, list[float]]] = {name: {"p50": [], "p99": []} for name in kinds}
    for _round in range(rounds):
        taken: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(calls):
            for name, call in kinds.items():
                began = time.perf_counter()
                await call(number)
                taken[name].append((time.perf_counter() - began) * 1000)
        for name, times in taken.items():
            times.sort()
            found[name]["p50"].append(round(times[len(times) // 2], 3))
            found[name]["p99"].append(round(times[len(times) * 99 // 100], 3))
    load = psutil.getloadavg()[0]
    return [
        {"images": images, "call": name, "load": load, **figures} for name, figures in found.items()
    ]


if __name__ == "__main__":
    main()
