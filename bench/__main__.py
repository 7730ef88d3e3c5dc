"""`make bench`: a table for people, JSON under `bench/results/`."""

import argparse
import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.replay import replay

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--events", type=int, default=20_000, help="envelopes a run")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=4711)
    arguments = parser.parse_args()
    began = psutil.cpu_times()
    runs = [
        asyncio.run(replay(arguments.events, seed=arguments.seed + number))
        for number in range(arguments.runs)
    ]
    ended = psutil.cpu_times()
    document = {
        "at": datetime.now(UTC).isoformat(),
        "cpus": os.cpu_count(),
        "steal_seconds": round(getattr(ended, "steal", 0) - getattr(began, "steal", 0), 1),
        "replay": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"replay-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=2))
    table = Table(title=f"replay of {arguments.events} envelopes")
    table.add_column("figure")
    for number in range(len(runs)):
        table.add_column(f"run {number + 1}", justify="right")
    for name in runs[0]:
        table.add_row(name, *(str(run[name]) for run in runs))
    Console(width=140).print(table)
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
