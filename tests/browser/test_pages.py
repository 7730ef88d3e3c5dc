"""Every page in a real browser: usable by keyboard, ear and thumb, and nothing strange happens."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import expect

from ledger.workspaces import Settings as WorkspaceSettings
from quota.accounts import Accounts
from quota.levels import level
from tests.browser.conftest import GIB, sign_in
from tests.support.browser import a_context, accessible, fits, shoot
from tests.support.ledger_images import pushed

PARTS = ("images", "next", "history", "apps", "cleanups", "events")
APPS = {"api": 0.4, "web": 0.3, "worker": 0.2, "docs": 0.1}
SHARED = 300 * 1024**2


async def lived_in(site, name="acme", percent=92, images=6):
    """A workspace with a week of pushes, four apps and a base layer that all share."""
    now = datetime.now(UTC)
    start = now - timedelta(days=6)
    quota = 10 * GIB
    accounts = Accounts(
        site.api.pool, default_quota_bytes=quota, level_of=level, clock=lambda: start
    )
    await accounts.configure(name, WorkspaceSettings(quota_bytes=quota))
    total = quota * percent // 100 - SHARED - 1000 * images * len(APPS)
    for number in range(images):
        for place, (app, share) in enumerate(APPS.items()):
            size = int(total * share / images)
            moment = start + timedelta(hours=number * 24 + place * 5 + 1)
            fact = pushed(
                f"{name}/{app}",
                f"1.{number}",
                [("base", SHARED), (f"{name} {app} {number}", size)],
                pushed_ns=int(moment.timestamp() * 1e9),
            )
            await site.api.recorder.record([fact], now=moment)


async def test_every_page_is_accessible_in_light_and_dark_and_on_a_phone(site):
    await lived_in(site)
    for name, percent in (("globex", 74), ("initech", 41), ("wonka", 104)):
        await site.fill(name, percent)
    paths = ["/", "/workspaces/acme", *(f"/workspaces/acme/{part}" for part in PARTS)]
    async with site.visit("/sign-in", token=None) as (page, _seen):
        await accessible(page)
        await fits(page)
    async with site.visit() as (page, _seen):
        await shoot(page, "overview", whole=False)
        for path in paths:
            await page.goto(path)
            await accessible(page)
            await fits(page)
        await page.goto("/workspaces/acme")
        await shoot(page, "workspace-92-percent")
        await shoot(page, "workspace", whole=False)
        await page.emulate_media(color_scheme="dark")
        await accessible(page)
        await shoot(page, "workspace-dark")
        await page.set_viewport_size({"width": 360, "height": 780})
        for path in paths:
            await page.goto(path)
            await fits(page)
        await page.goto("/workspaces/acme")
        await page.emulate_media(color_scheme="light")
        await accessible(page)
        await shoot(page, "workspace-phone", whole=False)
        await page.locator("#part-images").scroll_into_view_if_needed()
        await shoot(page, "images-phone", whole=False)
    async with site.visit("/workspaces/none", forgiving=True) as (page, _seen):
        await expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
        await accessible(page)


async def test_one_can_walk_by_keyboard_from_sign_in_to_an_images_page(site):
    await lived_in(site)
    async with a_context(site.browser, site.api.base) as (context, _seen):
        page = await context.new_page()
        await page.goto("/sign-in")
        await expect(page.get_by_label("API token")).to_be_focused()
        await page.keyboard.type("operator-token-of-a-test")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Workspaces")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        for _stop in range(20):
            await page.keyboard.press("Tab")
            focused = await page.evaluate("document.activeElement.getAttribute('href')")
            # Whatever has the focus shows it.
            assert await page.evaluate(
                "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
            )
            if focused == "/workspaces/acme":
                break
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="acme", exact=True)).to_be_visible()
        search = page.get_by_label("Search images")
        await search.focus()
        await page.keyboard.type("1.3")
        await page.keyboard.press("Enter")
        rows = page.locator("#part-images tbody tr")
        await expect(rows).to_have_count(4)
        assert page.url.endswith("/workspaces/acme"), "the part was replaced, not the page"
        await expect(page.get_by_label("Search images")).to_be_focused()
        await page.locator("#part-images").get_by_role("link", name="Size").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#part-images [aria-sort=descending]")).to_have_text(
            re.compile("Size")
        )
        await expect(rows.first).to_contain_text("acme/api")


async def test_everything_can_be_read_and_searched_without_javascript(site):
    await lived_in(site, images=8)
    async with site.visit("/workspaces/acme", java_script_enabled=False) as (page, _seen):
        for title in ("Usage over time", "What fills it", "What would be cleaned next", "Images"):
            await expect(page.get_by_role("heading", name=title)).to_be_visible()
        await page.get_by_role("link", name="Next").click()
        await expect(page.locator("#part-images tbody tr")).to_have_count(7)
        await page.goto("/workspaces/acme")
        await page.get_by_label("Search images").fill("web")
        await page.locator("#part-images").get_by_role("button", name="Search").click()
        await expect(page.locator("#part-images tbody tr")).to_have_count(8)
        await page.goto("/workspaces/acme/next")
        await expect(page.locator("#part-next tbody tr").first).to_contain_text("8th newest")


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "שלום-עולם",
    "n" * 255,
    "javascript:alert(1)",
)


async def test_hostile_names_are_shown_and_do_nothing(site):
    accounts = Accounts(
        site.api.pool, default_quota_bytes=GIB, level_of=level, clock=site.api.clock
    )
    for name in HOSTILE:
        await accounts.configure(name, WorkspaceSettings(quota_bytes=GIB))
        # Apps and tags may be called anything where somebody mapped or recorded them by hand.
        fact = pushed(f"{name}/{name}", name, [(name, 800 * 1024**2)])
        await site.api.recorder.record([fact], now=datetime.now(UTC))
    dialogs = []
    for width in (1280, 360):
        async with site.visit(width=width) as (page, _seen):
            page.on("dialog", lambda dialog: dialogs.append(dialog.message))
            for name in HOSTILE:
                await expect(page.get_by_text(name, exact=True)).to_be_visible()
            await fits(page)
            await accessible(page)
            for row in range(await page.locator(".workspace-row").count()):
                await page.goto("/")
                await page.locator(".workspace-row").nth(row).click()
                await expect(page.get_by_role("heading", name="Images")).to_be_visible()
                await fits(page)
    assert dialogs == []


@pytest.mark.parametrize("ending", ["expired", "revoked"])
async def test_a_page_that_stands_open_asks_to_sign_in_when_its_session_ends(site, ending):
    await site.fill("acme", 50)
    token = await site.api.token("read", workspaces=["acme"])
    async with site.visit(token=token, forgiving=True) as (page, _seen):
        async with page.expect_response("**/workspaces/acme/live?*"):
            await page.goto("/workspaces/acme")
        if ending == "expired":
            site.api.clock.ahead = timedelta(hours=13)
        else:
            await site.api.call("DELETE", f"/v1/tokens/{token.split('_')[1]}")
        await expect(page.get_by_text("Your session has ended. Sign in again.")).to_be_visible(
            timeout=15_000
        )
        if ending == "expired":
            await sign_in(page)


async def test_what_is_pushed_shows_while_one_looks(site):
    await site.fill("acme", 50)
    async with site.visit("/workspaces/acme") as (page, _seen):
        await expect(page.locator(".big")).to_contain_text("50 %")
        await expect(page.locator("[data-notice]")).to_have_count(0)
        fact = pushed("acme/web", "2.0", [("more", 25 * GIB // 10)])
        await site.api.recorder.record([fact], now=datetime.now(UTC))
        await expect(page.locator(".big")).to_contain_text("75 %")
        await expect(page.locator("[data-notice=warning]")).to_be_visible()
        await expect(page.locator("#part-images tbody tr").first).to_contain_text("acme/web")
        await expect(page.locator("#part-events")).to_contain_text("warning")
