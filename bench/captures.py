"""Every captured scenario through the ledger, in order, shuffled and doubled: equal to its registry?

`python -m bench.captures`: the notifications of both registry versions, with and without references,
are recorded on a real Postgres. Manifests, tags and bytes have to be those that the registry's storage
had in the end. Without references the sizes come from a small registry that serves the manifests.
"""

import asyncio
import json
import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from consumer.metrics import ConsumerMetrics
from consumer.sizes import SizeResolver
from consumer.translate import facts_of
from devstack.config import StackConfig
from devstack.stack import Stack
from ledger.facts import Fact
from registry.names import format_digest
from registry.notifications import decode_event
from runtime.lifecycle import Stopping
from runtime.postgres import Pool, open_pool
from tests.integration.consumer.test_norefs_captures import serving
from tests.support import ledgers
from tests.support.captures import Capture, all_captures
from tests.support.fake_registry import serving_fake

RESULTS = Path(__file__).parent / "results"
ORDERS = ("in order", "shuffled", "doubled and shuffled")
NOT_TOLD = {"queue_lost_on_restart": "events were lost with the registry's queue",
            "garbage_collect": "garbage collection tells nothing"}  # fmt: skip
_NOW = datetime(2026, 11, 23, tzinfo=UTC)

Account = tuple[set[tuple[str, str]], dict[tuple[str, str], str], dict[str, int]]
"""(repository, digest) of the manifests, (repository, tag) → digest, workspace → bytes."""


def truth(capture: Capture) -> Account:
    """What the registry's storage had."""
    document = capture.truth()
    manifests: set[tuple[str, str]] = set()
    tags: dict[tuple[str, str], str] = {}
    for name, item in document["repositories"].items():
        manifests |= {(name, digest) for digest in item["manifests"]}
        tags |= {(name, tag): digest for tag, digest in item["tags"].items()}
    usage: dict[str, int] = {}
    for name, item in document["workspaces"].items():
        workspace = "_" if name in document["repositories"] else name
        usage[workspace] = usage.get(workspace, 0) + item["bytes"]["c_workspace_dedup_all"]
    return manifests, tags, {name: size for name, size in usage.items() if size}


def facts(capture: Capture, order: str, chance: random.Random) -> list[Fact]:
    """What its notifications say, delivered in some order."""
    told = [
        fact
        for raw in capture.raw_events()
        if (fact := facts_of("default", decode_event(raw))) is not None
    ]
    if order == "in order":
        return told
    if order != "shuffled":
        told = [fact for fact in told for _ in range(2)]
    chance.shuffle(told)
    return told


async def account(pool: Pool, capture: Capture, order: str, chance: random.Random) -> Account:
    """Record a scenario in batches cut anywhere, and read the ledger back."""
    await ledgers.empty(pool)
    recorder = ledgers.recorder(pool)
    rest = facts(capture, order, chance)
    while rest:
        cut = chance.randint(1, max(1, min(len(rest), 25)))
        await recorder.record(rest[:cut], now=_NOW)
        rest = rest[cut:]
    if not capture.has_references:
        async with serving_fake() as fake, fake.client() as client:
            fake.script = [serving(capture)]
            resolver = SizeResolver(
                pool=pool,
                recorder=recorder,
                client=client,
                metrics=ConsumerMetrics(),
                stopping=Stopping(),
                clock=lambda: _NOW,
            )
            while await resolver.resolve_due():
                pass
    usage, tags = await ledgers.usage(pool), await ledgers.tags(pool)
    if usage != await ledgers.recount(pool):
        raise RuntimeError(f"{capture} {order}: the counters differ from a recount")
    return (
        {(name, format_digest(digest)) for name, digest in await ledgers.manifests(pool)},
        {(name, tag): format_digest(digest)
         for name, item in tags.items() for tag, digest in item.items()},
        usage,
    )  # fmt: skip


async def run() -> list[dict[str, Any]]:
    """A row a scenario."""
    rows = []
    chance = random.Random(4711)
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder))
        async with Stack(config, parts=["postgres", "kafka", "migrate"]) as stack:
            pool = await open_pool(stack.environment["RQ_DATABASE_URL"], size=4, name="bench")
            try:
                for capture in all_captures():
                    expected = truth(capture)
                    row: dict[str, Any] = {
                        "scenario": str(capture),
                        "events": len(capture.raw_events()),
                        "bytes": sum(expected[2].values()),
                    }
                    for order in ORDERS:
                        found = await account(pool, capture, order, chance)
                        row[order] = "exact" if found == expected else _apart(found, expected)
                    rows.append(row)
            finally:
                await pool.close()
    return rows


def _apart(found: Account, expected: Account) -> str:
    return (
        f"{len(found[0] ^ expected[0])} manifests, {len(found[1].items() ^ expected[1].items())} tags, "
        f"{sum(found[2].values()) - sum(expected[2].values()):+} bytes"
    )


def main() -> None:
    """Run it, print a table, write JSON."""
    rows = asyncio.run(run())
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"captures-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(rows, indent=2))
    table = Table("scenario", "events", "bytes", *ORDERS, title="captured scenarios")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console(width=150)
    console.print(table)
    exact = sum(row[order] == "exact" for row in rows for order in ORDERS)
    console.print(f"{exact} of {len(rows) * len(ORDERS)} replays byte-exact")
    for name, why in NOT_TOLD.items():
        console.print(f"{name}: {why}; `registry-quota reconcile` mends it")


if __name__ == "__main__":
    main()
