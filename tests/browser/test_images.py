"""The image table: what belongs together stands together, by names that people know."""

import hashlib
import time
import uuid
from datetime import UTC, datetime, timedelta

import msgspec
from playwright.async_api import expect

from ledger.facts import Content, ManifestPushed
from ledger.workspaces import Settings as WorkspaceSettings
from quota.accounts import Accounts
from quota.levels import level
from registry.media_types import OCI_INDEX
from tests.browser.conftest import GIB
from tests.support.browser import accessible, fits, shoot
from tests.support.ledger_images import pushed


async def push_index(site, repository, tag, sizes, *, age):
    """An index of images, as buildx pushes it: its children without a tag."""
    at_ns = time.time_ns() - int(age.total_seconds() * 1e9)
    children = [
        _child(pushed(repository, None, [(f"{tag} {number}", size)], pushed_ns=at_ns))
        for number, size in enumerate(sizes)
    ]
    index = ManifestPushed(
        "default",
        repository,
        hashlib.sha256(f"{repository}:{tag}".encode()).digest(),
        (at_ns + 1, uuid.uuid4().bytes),
        OCI_INDEX,
        517,
        tag,
        Content(blobs=(), children=tuple(child.digest for child in children), subject_known=True),
    )
    await site.api.recorder.record([*children, index], now=datetime.now(UTC))


def _child(fact):
    """With its document read: it refers to nothing."""
    return msgspec.structs.replace(
        fact, content=msgspec.structs.replace(fact.content, subject_known=True)
    )


async def test_children_fold_under_their_index_which_frees_what_goes_with_it(site):
    for number in range(1, 5):
        age = timedelta(hours=10 - number)
        await push_index(site, "acme/api", f"1.{number}", [100_000, 117_000], age=age)
    await site.api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 1_000_000})
    async with site.visit("/workspaces/acme") as (page, _seen):
        rows = page.locator("#part-images tbody tr")
        await expect(rows).to_have_count(4)
        oldest = rows.filter(has_text="1.1")
        await expect(oldest.locator("[data-label=Frees]")).to_have_text("214.4 KB")
        await expect(oldest).to_contain_text("goes next")
        await expect(rows.filter(has_text="goes next")).to_have_count(1)
        await oldest.get_by_text("2 manifests in it").click()
        await expect(oldest.locator("details li")).to_have_count(2)
        await accessible(page)
        await fits(page)
        await shoot(page, "images-index")
        # Who looks for a child finds it, and what keeps it has a name.
        child = await oldest.locator("details li code").first.get_attribute("title")
        await page.get_by_label("Search images").fill(child)
        await page.keyboard.press("Enter")
        await expect(rows).to_have_count(1)
        await expect(rows.locator(".protected")).to_contain_text("index 1.1")


async def test_a_chart_of_a_young_workspace_shows_its_hours_and_a_full_one_says_exceeded(site):
    now = datetime.now(UTC)
    start = now - timedelta(hours=3)
    accounts = Accounts(site.api.pool, default_quota_bytes=GIB, level_of=level, clock=lambda: start)
    await accounts.configure("acme", WorkspaceSettings(quota_bytes=GIB))
    for number in range(6):
        moment = start + timedelta(minutes=30 * number)
        fact = pushed(
            "acme/api",
            f"1.{number}",
            [(f"layer {number}", GIB // 5)],
            pushed_ns=int(moment.timestamp() * 1e9),
        )
        await site.api.recorder.record([fact], now=moment)
    async with site.visit("/workspaces/acme") as (page, _seen):
        await expect(page.locator("[data-notice]")).to_contain_text("Registry Quota Exceeded")
        chart = page.locator("#part-history svg.chart")
        box = await chart.locator(".line").bounding_box()
        whole = await chart.bounding_box()
        assert box["width"] > whole["width"] * 0.95
        await expect(page.locator("#part-history")).to_contain_text("Its history begins")
        await expect(chart.locator(".tick").first).to_contain_text(":")
        await accessible(page)
        await shoot(page, "chart-of-hours")
