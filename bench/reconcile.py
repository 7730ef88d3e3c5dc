"""A first installation: `registry-quota reconcile` beside a plain walk with `skopeo inspect --raw`.

`python -m bench.reconcile`: a real registry holds images that nobody told us of; the programs look at
them in turn, in one run. All are measured as a person starts them, with the start of the process.
An image's age stands in its config, so two more look at that as well: skopeo, asked for both, and the
registry's own limit, a program that reads what we read and does nothing with it.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.measuring import Meter
from devstack.config import StackConfig
from devstack.stack import Stack
from registry.client import RegistryClient
from registry.push import build_image, build_layer, push_image
from runtime.postgres import open_pool
from runtime.settings import Settings
from tests.support import ledgers

RESULTS = Path(__file__).parent / "results"
_PER_REPOSITORY = 100
_PUSHERS = 16


Runs = dict[str, list[dict[str, float]]]
"""Program → its figures in each repetition: `manifests/s`, CPU seconds per 1,000 manifests."""

RECONCILE = "reconcile"
BARE = "bare reads of the same documents"
RAW = "skopeo inspect --raw"
BOTH = "skopeo inspect --raw and --config"
_BOTH_SHARE = 4
"""Of the images that skopeo looks at, every so many also with its config: it takes twice as long."""


async def compare(images: int, walked: int, repetitions: int) -> dict[str, Any]:
    """Figures of all programs, in turn. `walked`: how many images skopeo looks at each time."""
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(
            Path(folder), registry_version="2", notification_url="http://127.0.0.1:9/nobody"
        )
        parts = ["postgres", "kafka", "registry", "migrate"]
        async with Stack(config, parts=parts, say=print) as stack:
            environment = stack.environment
            url = environment["RQ_REGISTRY_URL"]
            began = time.perf_counter()
            names = await fill(url, images)
            print(f"{len(names)} images pushed in {time.perf_counter() - began:.0f} s")
            runs: Runs = {RECONCILE: [], BARE: [], RAW: [], BOTH: []}
            reports = []
            for _ in range(repetitions):
                await forget(environment)
                cost = Cost(stack)
                reports.append(await reconcile(environment))
                runs[RECONCILE].append(cost.of(len(names)))
                cost = Cost(stack)
                await bare(url, names)
                runs[BARE].append(cost.of(len(names)))
                cost = Cost(stack)
                await walk(url, names[:walked])
                runs[RAW].append(cost.of(walked))
                both = names[:walked:_BOTH_SHARE]
                cost = Cost(stack)
                await walk(url, both, configs=True)
                runs[BOTH].append(cost.of(len(both)))
            began = time.perf_counter()
            await reconcile(environment)
            again = time.perf_counter() - began
    for report in reports:
        if report["problems"] or sum(item["found"] for item in report["drift"]) != images:
            raise RuntimeError(f"a pass did not find everything: {report['problems'][:3]}")
    rates = [run["manifests/s"] for run in runs[RECONCILE]]
    return {
        "images": images,
        "runs": runs,
        **{f"ratio to {name}": ratio(rates, runs[name]) for name in (BARE, RAW, BOTH)},
        "first_pass_seconds": spread([len(names) / rate for rate in rates]),
        "next_pass_seconds": round(again, 2),
        "bytes_found": sum(item["drift_bytes"] for item in reports[-1]["drift"]),
    }


class Cost:
    """What a program costs from here on: time, and the CPU of itself, the registry and Postgres."""

    def __init__(self, stack: Stack) -> None:
        self._meter = Meter(
            {name: psutil.Process(stack.pid(name)) for name in ("registry", "postgres")}
        )
        self._ended = _ended()

    def of(self, manifests: int) -> dict[str, float]:
        """Figures; the program's own CPU is that of the children that have ended meanwhile."""
        found = self._meter.stop()
        thousands = manifests / 1000
        return {
            "manifests/s": manifests / found["seconds"],
            "CPU s per 1,000": (_ended() - self._ended) / thousands,
            "registry, CPU s per 1,000": found["cpu.registry"] / thousands,
            "Postgres, CPU s per 1,000": found["cpu.postgres"] / thousands,
        }


def _ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ratio(ours: list[float], theirs: list[dict[str, float]]) -> dict[str, float]:
    """Repetition by repetition."""
    return spread([one / run["manifests/s"] for one, run in zip(ours, theirs, strict=True)], 2)


def spread(figures: list[float], digits: int = 1) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(statistics.median(figures), digits),
        "min": round(min(figures), digits),
        "max": round(max(figures), digits),
    }


async def fill(registry_url: str, count: int) -> list[str]:
    """Push images of two layers and a config, one layer shared; returns `repository:tag` of each."""
    shared = build_layer("shared", 2000)
    names = []
    for number in range(count):
        place = number // _PER_REPOSITORY
        names.append(f"ws{place % 10}/app{place}:v{number}")
    waiting = iter(enumerate(names))

    async def push(client: RegistryClient) -> None:
        for number, name in waiting:
            repository, tag = name.split(":")
            layers = [shared, build_layer(f"layer {number}", 500)]
            image = build_image(layers, label=str(number), created="2026-01-01T00:00:00Z")
            await push_image(client, repository, image, tag)

    async with RegistryClient(registry_url, concurrency=_PUSHERS) as client:
        await asyncio.gather(*(push(client) for _ in range(_PUSHERS)))
    return names


async def forget(environment: dict[str, str]) -> None:
    """Empty the ledger."""
    pool = await open_pool(environment["RQ_DATABASE_URL"], size=1, name="bench")
    try:
        await ledgers.empty(pool)
    finally:
        await pool.close()


async def reconcile(environment: dict[str, str]) -> dict[str, Any]:
    """Run the whole command; its report."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "reconcile", "--json",
        env={**os.environ, **environment, "RQ_LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _nothing = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"reconcile ended with {process.returncode}")
    return dict(json.loads(out))


async def bare(registry_url: str, names: list[str]) -> None:
    """Read the same documents over as many connections, and drop them."""
    connections = Settings.model_fields["reconcile_concurrency"].default
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.limits.registry", registry_url, str(connections),
        stdin=subprocess.PIPE,
    )  # fmt: skip
    await process.communicate("\n".join(names).encode())
    if process.returncode != 0:
        raise RuntimeError(f"bare reads ended with {process.returncode}")


async def walk(registry_url: str, names: list[str], *, configs: bool = False) -> None:
    """`skopeo inspect --raw`, one after another; with `configs` then the config, as ours reads it."""
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        raise SystemExit("skopeo is not on the PATH: install it to compare")
    host = registry_url.partition("://")[2]
    for name in names:
        for more in ([], ["--config"])[: 1 + configs]:
            process = await asyncio.create_subprocess_exec(
                skopeo, "inspect", *more, "--raw", "--tls-verify=false", f"docker://{host}/{name}",
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            if await process.wait() != 0:
                raise RuntimeError(f"skopeo could not look at {name}")


def main() -> None:
    """Run it, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.reconcile")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--walk", type=int, default=1000, help="images that skopeo looks at a time")
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    outcome = asyncio.run(compare(given.images, given.walk, given.repetitions))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"reconcile-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"cpus": os.cpu_count(), **outcome}, indent=2))
    runs: Runs = outcome.pop("runs")
    table = Table("program", *runs[RECONCILE][0], title="median (smallest, largest)")
    for name, figures in runs.items():
        told = [spread([run[key] for run in figures], 2) for key in figures[0]]
        table.add_row(name, *(f"{one['median']} ({one['min']}, {one['max']})" for one in told))
    for name, value in outcome.items():
        print(f"{name}: {value}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
