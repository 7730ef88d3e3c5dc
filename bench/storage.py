"""What the account takes on disk. `python -m bench.storage`: bytes of each table and its indexes, per image.

Images of ten layers, three of them shared among all, as the recorder stores them; vacuumed before it is
measured. The docs' sizing (docs/operations.md) stands on these figures.
"""

import argparse
import asyncio
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.hook import RESULTS, Images
from devstack.config import StackConfig
from devstack.stack import Stack
from runtime.postgres import open_pool

_SIZES = """
SELECT relname AS name, n_live_tup AS rows,
       pg_table_size(relid) AS heap, pg_indexes_size(relid) AS indexes
FROM pg_stat_user_tables WHERE n_live_tup > 0 ORDER BY pg_total_relation_size(relid) DESC
"""


def main() -> None:
    """Fill, measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.storage")
    parser.add_argument("--images", type=int, default=20_000)
    images: int = parser.parse_args().images
    rows = asyncio.run(_measure(images))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"storage-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"cpus": os.cpu_count(), "images": images, "rows": rows}, indent=2))
    table = Table(title=f"{images:,} images of ten layers")
    for name in ("table", "rows", "bytes/row", "indexes/row", "bytes/image"):
        table.add_column(name, justify="left" if name == "table" else "right")
    for row in rows:
        if row["rows"] >= images // 100:
            figures = (row["heap"] / row["rows"], row["indexes"] / row["rows"])
            whole = (row["heap"] + row["indexes"]) / images
            cells = [f"{figure:,.0f}" for figure in (row["rows"], *figures, whole)]
            table.add_row(row["name"], *cells)
    total = sum(row["heap"] + row["indexes"] for row in rows)
    table.add_row("all", "", "", "", f"{total / images:,.0f}")
    Console(width=100).print(table)
    print(f"written to {path.name}")


async def _measure(images: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder), registry_version="any")
        parts = ["postgres", "kafka", "migrate"]
        async with Stack(config, parts=parts, say=print) as stack:
            pool = await open_pool(stack.environment["RQ_DATABASE_URL"], size=2, name="bench")
            filled = Images(pool)
            await filled.grow(images)
            await filled.store()
            await pool.execute("VACUUM (ANALYZE)")
            rows = [dict(row) for row in await pool.fetch(_SIZES)]
            await pool.close()
    return rows


if __name__ == "__main__":
    main()
