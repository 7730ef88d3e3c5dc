"""The consumer with and without references in the events: what asking the registry costs.

`python -m bench.references`: the same image pushes twice. Without references every manifest is fetched
by digest from a small registry beside the stack and verified; both end in the same bytes, or the run
fails.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table

from bench.load import MANIFEST, envelope, events
from bench.processes import consuming
from devstack.config import StackConfig
from devstack.ports import LOOPBACK, free_port
from devstack.stack import ALL, Stack

RESULTS = Path(__file__).parent / "results"
_CONNECTIONS = 32
_LONGEST = 300.0


def pushes(count: int, seed: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Image pushes and their manifest documents; the digests are those of the documents."""
    for event in events(count, seed=seed):
        target = event["target"]
        if target["mediaType"] != MANIFEST:
            continue
        config, *layers = target["references"]
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        body = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        told = {**target, "digest": digest, "size": len(body), "length": len(body)}
        yield {**event, "target": told}, body


def serve(port: int, count: int, seed: int) -> None:
    """A registry in a process of its own that only has the manifests; it answers no other question."""
    documents = {event["target"]["digest"]: body for event, body in pushes(count, seed)}

    async def answer(request: web.Request) -> web.Response:
        headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
        body = documents.get(request.path.rsplit("/", 1)[-1])
        if body is None:
            return web.Response(status=200 if request.path == "/v2/" else 404, headers=headers)
        return web.Response(body=body, headers={**headers, "Content-Type": MANIFEST})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(app, host=LOOPBACK, port=port, print=lambda _line: None, access_log=None)


async def consume(count: int, seed: int, *, references: bool) -> dict[str, Any]:
    """Events per second until all are recorded, and until no size is pending."""
    port = free_port()
    argv = [sys.executable, "-m", "bench.references", "--serve", str(port)]
    argv += ["--events", str(count), "--seed", str(seed)]
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        other = await asyncio.create_subprocess_exec(*argv)
        config = StackConfig(
            Path(folder),
            StackConfig.for_tests(Path(folder)).cache_dir,
            ports=StackConfig.for_tests(Path(folder)).ports,
            external_registry_url=f"http://{LOOPBACK}:{port}",
        )
        try:
            async with Stack(config, parts=[part for part in ALL if part != "consumer"]) as stack:
                return await _measure(stack, count, seed, references=references)
        finally:
            other.terminate()
            await other.wait()


async def _measure(stack: Stack, count: int, seed: int, *, references: bool) -> dict[str, Any]:
    told = [event for event, _body in pushes(count, seed)]
    if not references:
        told = [
            {**event, "target": {k: v for k, v in event["target"].items() if k != "references"}}
            for event in told
        ]
    environment = stack.environment
    headers = {"Authorization": f"Bearer {environment['RQ_WEBHOOK_TOKEN']}"}
    reading = {"Authorization": f"Bearer {environment['RQ_API_TOKEN']}"}
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        waiting = iter(told)

        async def deliver() -> None:
            for event in waiting:
                async with session.post(
                    environment["RQ_WEBHOOK_URL"], data=envelope(event), headers=headers
                ) as answer:
                    answer.raise_for_status()

        async def status() -> dict[str, Any]:
            url = f"{environment['RQ_API_URL']}/v1/status"
            async with session.get(url, headers=reading) as answer:
                document: dict[str, Any] = await answer.json()
                return document

        async def until(done: Any) -> float:
            while not done(await status()):
                if time.perf_counter() - began > _LONGEST:
                    raise TimeoutError("the consumer does not come to an end")
                await asyncio.sleep(0.05)
            return time.perf_counter()

        def recorded(document: dict[str, Any]) -> int:
            return sum(item["next_offset"] for item in document["partitions"])

        await asyncio.gather(*(deliver() for _ in range(_CONNECTIONS)))
        began = time.perf_counter()
        with consuming(stack, f"bench-{time.time_ns()}"):
            began = await until(lambda document: recorded(document) >= 1)
            first = recorded(await status())
            taken = await until(lambda document: recorded(document) >= len(told))
            known = await until(lambda document: document["sizes_pending"] == 0)
        url = f"{environment['RQ_API_URL']}/v1/workspaces"
        async with session.get(url, headers=reading) as answer:
            usage = {
                item["workspace"]: item["usage_bytes"] for item in (await answer.json())["items"]
            }
    return {
        "events": len(told),
        "events_per_second": round((len(told) - first) / (taken - began)),
        "events_per_second_until_no_size_is_pending": round((len(told) - first) / (known - began)),
        "bytes": sum(usage.values()),
    }


def main() -> None:
    """Run both in turn, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.references")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.events, given.seed)
        return
    runs = []
    for _ in range(given.repetitions):
        run = {
            name: asyncio.run(consume(given.events, given.seed, references=name == "with"))
            for name in ("with", "without")
        }
        if run["with"]["bytes"] != run["without"]["bytes"]:
            raise RuntimeError(f"the bytes differ: {run}")
        runs.append(run)
        print(run)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"references-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"cpus": os.cpu_count(), "runs": runs}, indent=2))
    table = Table("run", "references", *runs[0]["with"], title="events with and without references")
    for number, run in enumerate(runs, 1):
        for name, figures in run.items():
            table.add_row(str(number), name, *map(str, figures.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
