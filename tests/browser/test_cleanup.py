"""A real cleanup in a real registry, watched and undone in a real browser."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import timedelta

from playwright.async_api import expect

from registry.client import RegistryClient
from tests.browser.conftest import Site
from tests.support.browser import accessible, fits, shoot
from tests.support.live_api import live_api
from tests.support.slow_registry import slow_deletes

LAYER = 20_000
QUOTA = 250_000
NOTE_STEPS = """() => {
  window.steps = [];
  const note = () => {
    const value = document.querySelector(".progress progress")?.value;
    if (value !== undefined && window.steps.at(-1) !== value) window.steps.push(value);
  };
  note();
  new MutationObserver(note).observe(document.body, { childList: true, subtree: true });
}"""


async def test_a_cleanup_is_watched_explained_and_undone(pool, backend, chromium):
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t")
        )
        deletes = asyncio.Semaphore(0)
        slow = await stack.enter_async_context(slow_deletes(registry.url, deletes))
        client = await stack.enter_async_context(RegistryClient(registry.url))
        api = await stack.enter_async_context(live_api(pool, slow))
        site = Site(api, chromium)
        for number in range(12):
            age = timedelta(hours=24 - number)
            await site.push(client, "acme/api", f"1.{number}", LAYER, age=age)
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": QUOTA})

        page, _seen = await stack.enter_async_context(site.visit("/workspaces/acme"))
        await expect(page.locator("[data-notice=critical]")).to_be_visible()
        planned = page.locator("#part-next tbody tr")
        await expect(planned.first).to_contain_text("12th newest")
        going = await planned.count()
        assert 3 <= going <= 12
        await page.get_by_role("button", name="Clean now").click()

        # What goes is shown, and asked for; until then nothing has gone.
        await expect(page.get_by_role("heading", name=f"Delete {going} images")).to_be_visible()
        shown = page.locator("tbody tr")
        await expect(shown).to_have_count(going)
        await expect(shown.first).to_contain_text("acme/api")
        await expect(shown.first).to_contain_text("never seen")
        await expect(page.get_by_text("What is in use is not known here")).to_be_visible()
        await accessible(page)
        await fits(page)
        await shoot(page, "plan")
        await page.get_by_role("link", name="Keep everything").click()
        await expect(page.locator("#part-cleanups")).to_contain_text("Nothing has been cleaned yet")
        await page.get_by_role("button", name="Clean now").click()
        await page.get_by_role("button", name=f"Delete {going} images").click()
        await page.wait_for_selector(".progress progress")
        # Noted in the page: however busy this machine is, no step is missed.
        await page.evaluate(NOTE_STEPS)

        # It is shown as it goes, step by step.
        progress = page.locator(".progress progress")
        await expect(progress).to_be_visible()
        await accessible(page)
        for done in range(1, going):
            deletes.release()
            await expect(page.locator(".progress")).to_contain_text(f"{done} of {going} images")
        await shoot(page, "during-cleanup")
        deletes.release()
        await expect(progress).to_have_count(0, timeout=30_000)
        steps = await page.evaluate("window.steps")
        assert steps == sorted(steps)
        assert len(steps) >= 3, steps
        await expect(page.locator("[data-notice=critical]")).to_have_count(0)
        runs = page.locator("#part-cleanups tbody tr")
        await expect(runs).to_have_count(1)
        await expect(runs.first).to_contain_text("finished")
        await expect(page.locator("#part-next")).to_contain_text("Nothing:")
        await expect(page.locator("#part-history .mark")).to_have_count(1)
        await expect(page.locator("#part-events")).to_contain_text("cleanup finished")
        assert len([tag async for tag in client.list_tags("acme/api")]) == 12 - going

        # Every image and its reason, and back with them.
        await runs.first.get_by_role("link").click()
        items = page.locator("tbody tr")
        await expect(items).to_have_count(going)
        await expect(items.first).to_contain_text("12th newest, frees")
        await accessible(page)
        await fits(page)
        await page.get_by_role("button", name=f"Restore {going} images").click()
        await expect(page.get_by_role("heading", name=f"{going} images restored")).to_be_visible()
        await accessible(page)
        assert len([tag async for tag in client.list_tags("acme/api")]) == 12
        await page.get_by_role("link", name="cleanup").click()
        await expect(page.locator(".state-restored")).to_have_count(going)
        await expect(page.get_by_role("button", name="Restore")).to_have_count(0)


async def test_without_scripts_one_is_asked_too_and_a_plan_that_changed_deletes_nothing(
    pool, backend, chromium
):
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t")
        )
        client = await stack.enter_async_context(RegistryClient(registry.url))
        api = await stack.enter_async_context(live_api(pool, registry.url))
        site = Site(api, chromium)
        images = [
            await site.push(
                client, "acme/api", f"1.{number}", LAYER, age=timedelta(hours=24 - number)
            )
            for number in range(12)
        ]
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": QUOTA})
        visit = site.visit("/workspaces/acme/next", java_script_enabled=False, forgiving=True)
        page, _seen = await stack.enter_async_context(visit)
        await page.get_by_role("button", name="Clean now").click()
        await expect(page.locator("tbody tr").first).to_contain_text("1.0")

        # Somebody keeps one of them: nothing of what was shown goes.
        await api.call("PATCH", "/v1/workspaces/acme", {"policy": {"keep_tags": ["1.1"]}})
        await page.get_by_role("button", name="Delete").click()
        await expect(page.get_by_role("alert")).to_contain_text("Nothing was deleted")
        await expect(page.get_by_role("alert")).to_contain_text("acme/api:1.1 is kept now")
        assert len([tag async for tag in client.list_tags("acme/api")]) == 12

        # A form of an earlier release says no plan: it is shown one.
        await page.get_by_role("button", name="Make a new plan").click()
        await page.locator("input[name=plan]").evaluate("item => item.remove()")
        await page.get_by_role("button", name="Delete").click()
        assert len([tag async for tag in client.list_tags("acme/api")]) == 12
        going = await page.locator("tbody tr").count()
        await page.get_by_role("button", name="Delete").click()
        await expect(page.get_by_role("heading", name="acme", exact=True)).to_be_visible()
        gone = 12 - len([tag async for tag in client.list_tags("acme/api")])
        assert 0 <= gone <= going
        await page.goto("/workspaces/acme/cleanups")
        await page.locator("tbody tr").first.get_by_role("link").click()
        await expect(page.locator("tbody tr")).to_have_count(going)
        await expect(page.get_by_text("a stored plan")).to_be_visible()

        # What a collection has taken is not offered to be put back.
        await expect(page.get_by_role("button", name=f"Restore {going} images")).to_be_visible()
        layer = json.loads(images[0].manifest.content)["layers"][0]["digest"]
        async with api.session.delete(f"{registry.url}/v2/acme/api/blobs/{layer}") as answer:
            assert answer.status == 202
        await page.reload()
        await expect(page.get_by_role("button", name=f"Restore {going - 1} image")).to_be_visible()
        await expect(page.get_by_text("1 image cannot come back")).to_be_visible()
        await expect(page.locator("tbody tr").filter(has_text="1.0")).to_contain_text("collected")
        await fits(page)
