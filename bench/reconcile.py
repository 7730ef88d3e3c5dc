"""A first installation: `registry-quota reconcile` beside a plain walk with `skopeo inspect --raw`.

`python -m bench.reconcile`: a real registry holds images that nobody told us of; both programs look at
them in turn, in one run. Both are measured as a person starts them, with the start of the process.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from devstack.config import StackConfig
from devstack.stack import Stack
from registry.client import RegistryClient
from registry.push import build_image, build_layer, push_image
from runtime.postgres import open_pool
from tests.support import ledgers

RESULTS = Path(__file__).parent / "results"
_PER_REPOSITORY = 100
_PUSHERS = 16


async def compare(images: int, walked: int, repetitions: int) -> dict[str, Any]:
    """Manifests per second of both, alternating. `walked`: how many skopeo looks at each time."""
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(
            Path(folder), registry_version="2", notification_url="http://127.0.0.1:9/nobody"
        )
        parts = ["postgres", "kafka", "registry", "migrate"]
        async with Stack(config, parts=parts, say=print) as stack:
            environment = stack.environment
            began = time.perf_counter()
            names = await fill(environment["RQ_REGISTRY_URL"], images)
            print(f"{len(names)} images pushed in {time.perf_counter() - began:.0f} s")
            ours, theirs, reports = [], [], []
            for _ in range(repetitions):
                seconds, report = await reconcile(environment)
                ours.append(len(names) / seconds)
                reports.append(report)
                theirs.append(await walk(environment["RQ_REGISTRY_URL"], names[:walked]))
            again, _report = await reconcile(environment, fresh=False)
    for report in reports:
        if report["problems"] or sum(item["found"] for item in report["drift"]) != images:
            raise RuntimeError(f"a pass did not find everything: {report['problems'][:3]}")
    return {
        "images": images,
        "reconcile_manifests_per_second": spread(ours),
        "skopeo_manifests_per_second": spread(theirs),
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 1),
        "first_pass_seconds": spread([len(names) / rate for rate in ours]),
        "next_pass_seconds": round(again, 2),
        "bytes_found": sum(item["drift_bytes"] for item in reports[-1]["drift"]),
    }


def spread(figures: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(statistics.median(figures), 1),
        "min": round(min(figures), 1),
        "max": round(max(figures), 1),
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


async def reconcile(
    environment: dict[str, str], *, fresh: bool = True
) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command on an empty (`fresh`) ledger, and its report."""
    if fresh:
        pool = await open_pool(environment["RQ_DATABASE_URL"], size=1, name="bench")
        try:
            await ledgers.empty(pool)
        finally:
            await pool.close()
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "reconcile", "--json",
        env={**os.environ, **environment, "RQ_LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _nothing = await process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise RuntimeError(f"reconcile ended with {process.returncode}")
    return seconds, json.loads(out)


async def walk(registry_url: str, names: list[str]) -> float:
    """Manifests per second of `skopeo inspect --raw`, one after another."""
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        raise SystemExit("skopeo is not on the PATH: install it to compare")
    host = registry_url.partition("://")[2]
    began = time.perf_counter()
    for name in names:
        process = await asyncio.create_subprocess_exec(
            skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{host}/{name}",
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if await process.wait() != 0:
            raise RuntimeError(f"skopeo could not look at {name}")
    return len(names) / (time.perf_counter() - began)


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
    table = Table("figure", "value", title="reconcile beside a sequential walk")
    for name, value in outcome.items():
        table.add_row(name, str(value))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
