"""Pages of a large workspace: time to the first byte, and what a browser loads. `python -m bench.pages`.

The real API process; a workspace at 92 % of its quota, so that its planner has work as well. `first` is
right after a push, when no figure that needs all images is known; `then` are later visits. While those
figures are worked out, the hook of another workspace is called again and again: `meanwhile` says what
it waited at most.
"""

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.hook import Images
from devstack.config import StackConfig
from devstack.stack import ALL, Stack
from runtime.postgres import open_pool

RESULTS = Path(__file__).parent / "results"
_WORKSPACE = "bench"
_PATHS = (
    "",
    "/images",
    "/images?page=400",
    "/images?q=v99&show=tagged",
    "/images?sort=size",
    "/history",
    "/apps",
    "/next",
    "/events",
)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--visits", type=int, default=10)
    arguments = parser.parse_args()
    document = asyncio.run(_run(arguments.images, arguments.visits))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"pages-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=2))
    table = Table(title=f"pages of a workspace with {arguments.images} images")
    for name in document["pages"][0]:
        table.add_column(name, justify="left" if name == "page" else "right")
    for row in document["pages"]:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=140).print(table)
    print({name: value for name, value in document.items() if name != "pages"})


async def _run(images: int, visits: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder), registry_version="any")
        parts = [part for part in ALL if part not in {"consumer", "receiver"}]
        async with Stack(config, parts=parts, say=print) as stack:
            environment = stack.environment
            base, token = environment["RQ_API_URL"], environment["RQ_API_TOKEN"]
            pool = await open_pool(environment["RQ_DATABASE_URL"], size=2, name="bench")
            async with aiohttp.ClientSession(
                base, cookie_jar=aiohttp.CookieJar(unsafe=True)
            ) as session:
                stored = Images(pool)
                await stored.grow(images)
                usage = await pool.fetchval(
                    "SELECT usage_bytes FROM workspaces WHERE name = $1", _WORKSPACE
                )
                await _configure(session, token, usage * 100 // 92)
                async with session.post("/sign-in", data={"token": token}) as answer:
                    answer.raise_for_status()
                waited = asyncio.create_task(_hooks(session, token))
                first = {}
                for path in _PATHS:
                    first[path] = await _visit(session, path)
                await asyncio.sleep(5)
                rows = []
                for path in _PATHS:
                    then = [await _visit(session, path) for _ in range(visits)]
                    rows.append(
                        {
                            "page": path or "the workspace's page",
                            "first, TTFB ms": round(first[path][0]),
                            "then, TTFB ms": round(statistics.median(ms for ms, _text in then)),
                            "then, most": round(max(ms for ms, _text in then)),
                            "KB": round(len(then[-1][1]) / 1024, 1),
                        }
                    )
                waited.cancel()
                weight = await _weight(session, then_text=(await _visit(session, ""))[1])
                outcome = {"pages": rows, **weight, "hook meanwhile, most ms": round(_MOST[0])}
            await pool.close()
    return outcome


_MOST = [0.0]


async def _configure(session: aiohttp.ClientSession, token: str, quota: int) -> None:
    async with session.patch(
        f"/v1/workspaces/{_WORKSPACE}",
        json={"quota_bytes": quota},
        headers={"Authorization": f"Bearer {token}"},
    ) as answer:
        answer.raise_for_status()


async def _hooks(session: aiohttp.ClientSession, token: str) -> None:
    """Calls of a hook that has nothing to do with it, one after another."""
    while True:
        began = time.perf_counter()
        async with session.post(
            "/v1/hooks/pre-build",
            json={"workspace": "another", "incoming_bytes": 1},
            headers={"Authorization": f"Bearer {token}"},
        ) as answer:
            await answer.read()
        _MOST[0] = max(_MOST[0], (time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.02)


async def _visit(session: aiohttp.ClientSession, path: str) -> tuple[float, str]:
    """Milliseconds until the answer's head was there, and its text."""
    began = time.perf_counter()
    async with session.get(f"/workspaces/{_WORKSPACE}{path}") as answer:
        answer.raise_for_status()
        ms = (time.perf_counter() - began) * 1000
        return ms, await answer.text()


async def _weight(session: aiohttp.ClientSession, *, then_text: str) -> dict[str, float]:
    """Bytes that a browser fetches with an empty cache, as they go over the wire."""
    files = 0
    for address in set(re.findall(r'(?:src|href)="(/static/[^"]+)"', then_text)):
        async with session.get(address) as answer:
            files += int(answer.headers["Content-Length"])
    return {
        "page KB": round(len(then_text.encode()) / 1024, 1),
        "files KB, compressed": round(files / 1024, 1),
    }


if __name__ == "__main__":
    main()
