"""`make bench`: the figures of docs/performance.md, as a table for people and as JSON.

`make bench ARGS="p1 p3 --repetitions 5"` chooses. Programs that are compared alternate within one run;
a figure is the median of its repetitions with the smallest and the largest. Nothing is asserted: what a
figure is worth depends on the foreign CPU and the steal that stand beside it.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from bench import backlog, hook, pushing, receiving, reconcile
from bench.measuring import Spread, spreads
from bench.planner import SIZES

RESULTS = Path(__file__).parent / "results"

Runs = dict[str, list[dict[str, Any]]]
"""Program → figures of each repetition."""


class Section(NamedTuple):
    """One table. `ratios`: (what, of which program to which, of which figure)."""

    title: str
    runs: Runs
    ratios: tuple[tuple[str, str, str], ...] = ()


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


async def p1(given: argparse.Namespace) -> list[Section]:
    """Acknowledgement, one event at a time."""
    found = await receiving.compare(receiving.ACKNOWLEDGING, given.repetitions, given.seconds, say)
    return [
        Section(
            mode,
            runs,
            (
                ("receiver", "bare", "events/s"),
                ("receiver", "bare", "p50 ms"),
                ("receiver", "bento", "p99 ms"),
            ),
        )
        for mode, runs in found.items()
    ]


async def p2(given: argparse.Namespace) -> list[Section]:
    """Receiver throughput."""
    found = await receiving.compare(receiving.THROUGHPUT, given.repetitions, given.seconds, say)
    ratios = tuple(
        (ours, other, "events/s")
        for ours in ("receiver", "2 receivers")
        for other in ("bare", "bento")
    )
    return [Section(mode, runs, ratios) for mode, runs in found.items()]


async def p3(given: argparse.Namespace) -> list[Section]:
    """Consumer: a backlog."""
    found = await backlog.compare(given.events, given.repetitions, given.seed, say)
    others = [name for name in found if name != "ledger"]
    ratios = tuple(("ledger", name, "events/s") for name in others)
    return [Section(f"P3 a backlog of {given.events:,} image pushes", found, ratios)]


async def p4(given: argparse.Namespace) -> list[Section]:
    """From push to usage."""
    found = await pushing.lag(given.repetitions, given.seconds, given.seed, say)
    return [Section("P4 from a push to the usage that is read", {"the whole system": found})]


async def p5(given: argparse.Namespace) -> list[Section]:
    """Pre-build hook."""
    _races, rows = await hook.run(given.images, calls=300, rounds=given.repetitions, races=20)
    sections = []
    for images in given.images:
        runs = {
            row["call"]: [
                {"p50 ms": p50, "p99 ms": p99}
                for p50, p99 in zip(row["p50"], row["p99"], strict=True)
            ]
            for row in rows
            if row["images"] == images
        }
        ratios = tuple(
            (name, limit, "p50 ms")
            for name, limit in (
                ("hook that reserves", "INSERT with commit"),
                ("hook that reserves, 10 layers", "INSERT with commit"),
                ("hook without build_id", "SELECT 1"),
                ("hook that reserves", hook.DOOR_INSERT),
                ("hook without build_id", hook.DOOR_SELECT),
            )
        )
        sections.append(Section(f"P5 pre-build hook, {images:,} images", runs, ratios))
    return sections


async def p6(_given: argparse.Namespace) -> list[Section]:
    """The planner."""
    runs: Runs = {}
    for images in SIZES:
        argv = [sys.executable, "-m", "bench.planner", str(images)]
        found = json.loads(await asyncio.to_thread(subprocess.check_output, argv))
        mib = {"input MiB": found["input_bytes"] / 2**20, "most MiB": found["most_bytes"] / 2**20}
        runs[f"{found['images']:,} images, {found['blobs']:,} layers"] = [
            {"seconds": seconds, **mib} for seconds in found["seconds"]
        ]
    return [Section("P6 planner", runs)]


async def p7(given: argparse.Namespace) -> list[Section]:
    """One hot workspace."""
    found = await pushing.hot(given.repetitions, 5000, 500, 1000, given.seed, say)
    return [Section("P7 one hot workspace", found)]


async def p8(given: argparse.Namespace) -> list[Section]:
    """Reconciliation."""
    if shutil.which("skopeo") is None:
        say("P8: skipped, skopeo is not on the PATH")
        return []
    found = await reconcile.compare(given.registry_images, 500, given.repetitions)
    runs = found["runs"]
    ratios = tuple((reconcile.RECONCILE, name, "manifests/s")
                   for name in (reconcile.RAW, reconcile.BOTH, reconcile.BARE))  # fmt: skip
    return [Section(f"P8 {given.registry_images:,} images in a registry", runs, ratios)]


async def p9(given: argparse.Namespace) -> list[Section]:
    """Several consumers; memory over a long run."""
    found = await backlog.scale(given.events, given.repetitions, given.seed, say)
    ratios = tuple((name, "1 consumer", "events/s") for name in found if name != "1 consumer")
    sections = [Section(f"P9 {given.events:,} events by several consumers", found, ratios)]
    if given.long:
        runs = await backlog.long_run(given.long, given.seed, say)
        sections.append(Section(f"P9 memory over {given.long:,} events", runs))
    return sections


FIGURES: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, list[Section]]]] = {
    one.__name__: one for one in (p1, p2, p3, p4, p5, p6, p7, p8, p9)
}


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="p1 … p9", help="which ones (all)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of load, a repetition")
    parser.add_argument("--events", type=int, default=100_000, help="of a backlog")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000],
                        help="of the hook's workspace; 1000000 takes 20 minutes to fill")  # fmt: skip
    parser.add_argument("--registry-images", type=int, default=5_000)
    parser.add_argument("--long", type=int, default=0, help="events of p9's long run (1000000)")
    parser.add_argument("--seed", type=int, default=4711)
    given = parser.parse_args()
    unknown = set(given.figures) - FIGURES.keys()
    if unknown:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    console = Console(width=200)
    sections: list[Section] = []
    for name in given.figures or FIGURES:
        for section in asyncio.run(FIGURES[name](given)):
            sections.append(section)
            show(console, section)
    print(f"written to {write(sections, given)}")


def show(console: Console, section: Section) -> None:
    """One table: a row a program, median (smallest to largest) of every figure; then ratios."""
    found = {name: spreads(list(runs)) for name, runs in section.runs.items()}
    columns = dict.fromkeys(name for figures in found.values() for name in figures)
    table = Table("", *columns, title=section.title)
    for name, figures in found.items():
        table.add_row(name, *(str(figures.get(column, "")) for column in columns))
    console.print(table)
    for line in ratio_lines(section):
        console.print(f"  {line}")


def ratio_lines(section: Section) -> list[str]:
    """Medians of one program beside another's."""
    lines = []
    for one, other, figure in section.ratios:
        if one in section.runs and other in section.runs:
            ratio = ratio_of(section.runs, one, other, figure)
            lines.append(f"{figure}: {one} / {other} = {ratio}")
    return lines


def ratio_of(runs: Runs, one: str, other: str, figure: str) -> Spread:
    """Of the repetitions one by one, because they ran beside each other."""
    return Spread.of(
        mine[figure] / theirs[figure]
        for mine, theirs in zip(runs[one], runs[other], strict=True)
        if theirs[figure]
    )


def write(sections: list[Section], given: argparse.Namespace) -> Path:
    """Everything, as JSON."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"bench-{now:%Y%m%dT%H%M%SZ}.json"
    document = {
        "at": now.isoformat(),
        "cpus": os.cpu_count(),
        "load": psutil.getloadavg(),
        "arguments": vars(given),
        "sections": [
            {
                "title": section.title,
                "runs": section.runs,
                "medians": {name: spreads(list(runs)) for name, runs in section.runs.items()},
                "ratios": ratio_lines(section),
            }
            for section in sections
        ],
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
    return path


if __name__ == "__main__":
    main()
