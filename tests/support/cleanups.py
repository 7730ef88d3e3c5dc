"""A cleanup that has to delete an index of two children and an image, and what must be true after it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from quota.cleaning import STALE_AFTER
from quota.cleanup import Cleaner
from quota.metrics import QuotaMetrics
from registry.client import RegistryClient
from registry.push import Image, Index, build_image, build_index, build_layer
from runtime.postgres import Pool
from tests.support import ledgers

INDEX = build_index(
    {name: build_image([build_layer(f"old {name}", 200_000)]) for name in ("amd64", "arm64")}
)
IMAGES = [build_image([build_layer(f"web {number}", 140_000)]) for number in range(4)]
QUOTA = 700_000
GOES = 4
"""Manifests that have to go: the index, its children, and the oldest image."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def later() -> datetime:
    """When a run without a heartbeat since now may be taken over."""
    return utc_now() + STALE_AFTER + timedelta(seconds=1)


def cleaner_of(
    client: RegistryClient,
    pool: Pool,
    *,
    clock: Callable[[], datetime] = utc_now,
    owner: str = "another",
) -> Cleaner:
    """Another process's."""
    return Cleaner(
        pool=pool,
        recorder=ledgers.recorder(pool),
        client=client,
        clock=clock,
        owner=owner,
        metrics=QuotaMetrics(),
    )


class Pushes(Protocol):
    """What fills a registry and its ledger (tests/integration/quota/conftest.py)."""

    async def configure(self, workspace: str, quota_bytes: int) -> None:
        """Its quota."""

    async def push_built(self, repository: str, tag: str, image: Image) -> None:
        """An image."""

    async def push_index(self, repository: str, tag: str, index: Index) -> None:
        """An index and its children."""


async def fill(service: Pushes) -> None:
    """Workspace acme holds more than its quota."""
    await service.configure("acme", QUOTA)
    await service.push_index("acme/web", "old", INDEX)
    for number, image in enumerate(IMAGES):
        await service.push_built("acme/web", f"1.{number}", image)


async def everything_agrees(pool: Pool, client: RegistryClient) -> int:
    """Assert that ledger, registry and audit say the same; returns how many manifests are gone."""
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    assert await ledgers.references_agree(pool)
    present = await ledgers.manifests(pool)
    for digest in [INDEX.digest, *(image.digest for image in (*INDEX.images, *IMAGES))]:
        head = await client.head_manifest("acme/web", digest)
        assert head.exists == (("acme/web", digest) in present)
    gone = ("acme/web", INDEX.digest) not in present
    assert all((("acme/web", image.digest) not in present) == gone for image in INDEX.images)

    runs = await pool.fetch("SELECT * FROM cleanup_runs")
    assert {run["state"] for run in runs} <= {"finished"}
    items = await pool.fetch("SELECT * FROM cleanup_items")
    assert {item["state"] for item in items} <= {"deleted", "skipped"}
    deleted = [item for item in items if item["state"] == "deleted"]
    assert len({item["digest"] for item in deleted}) == len(deleted)
    assert all(item["document"] for item in deleted)
    for run in runs:
        own = [item for item in deleted if item["run_id"] == run["id"]]
        assert run["freed_bytes"] == sum(item["freed_bytes"] for item in own)
        assert run["usage_before"] - run["usage_after"] == run["freed_bytes"]
    told = await pool.fetch(
        "SELECT data->>'run_id' AS run FROM outbox WHERE type LIKE '%cleanup.finished%'"
    )
    assert sorted(row["run"] for row in told) == sorted(str(run["id"]) for run in runs)
    return len(deleted)
