"""Bento (MIT, Go) as a peer: built once by Go from its module with only the components used here."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devstack.cache import built_once
from devstack.processes import run_tool

SOURCE = Path(__file__).parent / "bento"

FLAT_COLUMNS = ("event_id", "at", "action", "repository", "digest", "tag", "size")
_FIELDS = """\
root = {"event_id": this.id, "at": this.timestamp, "action": this.action,
  "repository": this.target.repository, "digest": this.target.digest, "tag": this.target.tag,
  "size": this.target.size}"""


async def program(cache_dir: Path, say: Callable[[str], None]) -> Path | None:
    """The program; None (said why) where Go is missing. Raises StackError when it cannot be built."""
    if not shutil.which("go"):
        say("bento: skipped, building it needs Go on the PATH")
        return None
    files = [SOURCE / name for name in ("go.mod", "go.sum", "main.go")]
    state = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]

    async def build(work: Path) -> None:
        say("bento: building it with Go (5 to 10 minutes, once)")
        await run_tool(
            ["go", "build", "-trimpath", "-o", work / "bento", "."],
            what="building Bento with Go",
            cwd=SOURCE,
            env={"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
        )

    return await built_once(cache_dir, f"bento-{state}", build) / "bento"


def receiving(port: int, bootstrap: str, topic: str) -> dict[str, Any]:
    """Configuration: HTTP in, Kafka out, answered (200) when all replicas have it."""
    return _whole(
        {
            "http_server": {
                "address": f"127.0.0.1:{port}",
                "path": "/v1/notifications",
            }
        },
        {
            "kafka_franz": {
                "seed_brokers": [bootstrap],
                "topic": topic,
                "max_in_flight": 1024,
            }
        },
    )


def inserting(bootstrap: str, topic: str, group: str, url: str, *, as_set: bool) -> dict[str, Any]:
    """Configuration: Kafka in, one flat row per event out; row by row, or many in one statement."""
    source = {
        "kafka_franz": {
            "seed_brokers": [bootstrap],
            "topics": [topic],
            "consumer_group": group,
            "start_from_oldest": True,
            "checkpoint_limit": 10_000,
        }
    }
    columns = ", ".join(FLAT_COLUMNS)
    if not as_set:
        names = ", ".join(f"this.{name}" for name in FLAT_COLUMNS)
        rows = {
            "driver": "postgres",
            "dsn": url,
            "table": "bench_flat",
            "columns": list(FLAT_COLUMNS),
            "args_mapping": f"root = [ {names} ]",
            "max_in_flight": 64,
        }
        return _whole(source, {"sql_insert": rows}, _FIELDS)
    kinds = ", ".join(f"{name} {'int8' if name == 'size' else 'text'}" for name in FLAT_COLUMNS)
    statement = {
        "driver": "postgres",
        "dsn": url,
        "query": f"INSERT INTO bench_flat ({columns}) "  # noqa: S608 - constants of this module
        f"SELECT {columns} FROM json_to_recordset($1::json) AS given({kinds})",
        "args_mapping": "root = [ content().string() ]",
        "max_in_flight": 4,
        "batching": {
            "count": 2000,
            "period": "20ms",
            "processors": [{"archive": {"format": "json_array"}}],
        },
    }
    return _whole(source, {"sql_raw": statement}, _FIELDS)


def _whole(
    source: dict[str, Any], sink: dict[str, Any], mapping: str | None = None
) -> dict[str, Any]:
    return {
        "http": {"enabled": False},
        "logger": {"level": "ERROR"},
        "input": source,
        "pipeline": {"processors": [] if mapping is None else [{"mapping": mapping}]},
        "output": sink,
    }
