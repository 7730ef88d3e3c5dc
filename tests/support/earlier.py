"""An earlier release: its code, out of the history, and a ledger that it filled (`tests/data/upgrade`).

`python -m tests.support.earlier` makes that data again, from captured notifications.
"""

import asyncio
import gzip
import io
import json
import os
import socket
import subprocess
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from devstack.config import StackConfig
from devstack.processes import run_tool
from devstack.stack import Stack
from runtime.kafka import NOTIFICATIONS_TOPIC, create_topics
from runtime.producers import open_producer
from runtime.settings import Settings
from tests.support.captures import all_captures
from tests.support.consumers import topic_ends
from tests.support.histories import pattern_workspace
from tests.support.postgres_tools import postgres_tools
from tests.support.programs import Program
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "upgrade"
COMMIT = "f811780c0df0f8c911189ae02f191c10dc08418e"
"""The last one whose newest revision was REVISION."""
REVISION = "20261124_reconcile"
PREFIX = "earlier-"
"""Of every repository in the data."""

# Known from the registry alone: events were lost, or garbage collection emits nothing.
_NOT_TOLD = {"queue_lost_on_restart", "garbage_collect"}


@dataclass(frozen=True)
class Earlier:
    """What an earlier release had taken in, and what it had not yet."""

    dump: str
    """SQL: schema and data at REVISION."""
    consumed: list[bytes]
    coming: list[bytes]
    bytes_of: dict[str, int]
    """Workspace → bytes when all of it is taken in, as the registries held it."""


def key_of(event: bytes) -> bytes:
    """The key that the receiver gives an event."""
    return pattern_workspace(json.loads(event)["target"]["repository"]).encode()


def earlier_ledger() -> Earlier:
    """The data as it is kept."""
    about = json.loads((DATA / "about.json").read_text())
    events = gzip.decompress((DATA / "events.jsonl.gz").read_bytes()).splitlines()
    return Earlier(
        dump=gzip.decompress((DATA / "ledger.sql.gz").read_bytes()).decode(),
        consumed=events[: about["consumed"]],
        coming=events[about["consumed"] :],
        bytes_of=about["bytes"],
    )


def earlier_code_or_skip(folder: Path) -> Path:
    """The earlier release's sources, put into `folder`; skips where the history does not reach back."""
    packed = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"the history here does not reach back to {COMMIT[:7]}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


async def send(settings: Settings, events: list[bytes], *, pause: float = 0.0) -> None:
    """Publish events, in order, as the receiver does."""
    producer = await open_producer(settings)
    try:
        sent = []
        for event in events:
            sent.append(await producer.send(NOTIFICATIONS_TOPIC, value=event, key=key_of(event)))
            if pause:
                await asyncio.sleep(pause)
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


# -- making the data ---------------------------------------------------------------------------


def _events() -> tuple[list[bytes], dict[str, int]]:
    """Scenarios that events tell whole, each under names of its own; workspace → bytes at the end."""
    events: list[bytes] = []
    held: Counter[str] = Counter()
    for number, capture in enumerate(all_captures()):
        if (
            capture.version != "v2.8.2"
            or not capture.has_references
            or capture.scenario in _NOT_TOLD
        ):
            continue
        prefix = f"{PREFIX}{number}-"
        truth = capture.truth()
        names = [f"{prefix}{name}" for name in truth["repositories"]]
        if any(len(name) > 255 for name in names):
            continue
        for delivery in capture.deliveries():
            for event in delivery.events:
                for field in ("repository", "fromRepository"):
                    if event["target"].get(field):
                        event["target"][field] = prefix + event["target"][field]
                event["target"].pop("url", None)
                events.append(json.dumps(event, separators=(",", ":")).encode())
        for name, item in truth["workspaces"].items():
            if name not in truth["repositories"]:
                held[prefix + name] += item["bytes"]["c_workspace_dedup_all"]
    return events, dict(held)


async def _make(folder: Path) -> None:
    code = earlier_code_or_skip(folder / "code")
    events, held = _events()
    consumed = len(events) // 2
    config = StackConfig.for_tests(folder / "stack")
    async with Stack(config, parts=("kafka", "postgres")) as stack:
        settings = Settings(kafka_bootstrap=stack.kafka_bootstrap)
        environment = {
            "RQ_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
            "RQ_DATABASE_URL": stack.database_url,
            "RQ_REGISTRY_URL": "http://127.0.0.1:9",
        }
        migrate = Program(["migrate"], environment, folder / "migrate.log", code=code)
        migrate.start()
        if await migrate.wait():
            raise SystemExit(migrate.log())
        await create_topics(settings)
        await send(settings, events[:consumed])
        consumer = Program(["serve", "consumer"], environment, folder / "consumer.log", code=code)
        consumer.start()
        connection = await asyncpg.connect(stack.database_url)
        try:
            ends = await topic_ends(settings)

            async def caught_up() -> bool:
                rows = await connection.fetch("SELECT partition, next_offset FROM consumer_offsets")
                return dict(rows) | {p: 0 for p, end in ends.items() if not end} == ends

            await wait_until(caught_up, 60, what="the earlier consumer")
        finally:
            await connection.close()
            await consumer.stop()
        options = ["--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=200"]
        dump = await run_tool(
            [postgres_tools(18) / "pg_dump", *options, stack.database_url], what="pg_dump"
        )
    lines = [
        line
        for line in dump.splitlines()
        # Of psql, or of newer servers than the oldest that is supported.
        if not line.startswith(("\\", "--", "SET transaction_timeout")) and line
    ]
    DATA.mkdir(parents=True, exist_ok=True)
    told = "\n".join(lines).replace(f"'{socket.gethostname()}/", "'earlier/")
    _write("ledger.sql.gz", told.encode())
    _write("events.jsonl.gz", b"\n".join(events))
    about = {"commit": COMMIT, "revision": REVISION, "consumed": consumed, "bytes": held}
    (DATA / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _write(name: str, data: bytes) -> None:
    (DATA / name).write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(_make(Path(made)))
