"""The operator's page in a real browser: one screen, live, in words and not by colour alone."""

from datetime import timedelta

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import expect

from quota import registry_watch
from tests.browser.conftest import Site
from tests.support.browser import accessible, fits, shoot
from tests.support.fake_registry import REGISTRY
from tests.support.live_api import live_api

NOBODY = "127.0.0.1:1"


@pytest_asyncio.fixture
async def alone(pool, chromium):
    """An API without Kafka and without a receiver."""
    async with live_api(pool, kafka_bootstrap=NOBODY, receiver_url=f"http://{NOBODY}") as api:
        yield Site(api, chromium)


def state(page, check):
    return page.locator(f"[data-check={check}]")


async def test_what_is_broken_is_said_in_words_and_what_changes_shows_at_once(alone):
    await alone.fill("acme", 50)
    async with alone.visit("/") as (page, _seen):
        await page.get_by_role("link", name="Pipeline").click()
        await expect(page.get_by_role("heading", name="Pipeline", exact=True)).to_be_visible()
        await expect(page.locator(".verdict")).to_contain_text("Something is broken.")
        for check, words in (("kafka", "broken"), ("receiver", "broken"), ("leases", "healthy")):
            await expect(state(page, check).locator(".check-state")).to_contain_text(words)
        await expect(state(page, "receiver")).to_contain_text("registry-quota serve receiver")
        await accessible(page)
        await fits(page)

        lease = {"source": "k8s", "digests": [], "ttl_s": 60}
        await alone.api.call("POST", "/v1/workspaces/acme/leases", lease)
        alone.api.clock.ahead += timedelta(hours=3)
        await expect(state(page, "leases")).to_have_attribute("data-state", "warning")
        await expect(state(page, "leases")).to_contain_text("k8s (acme); the oldest for 2 hours")
        await expect(state(page, "leases")).to_contain_text("leases retire")
        await shoot(page, "pipeline")


async def test_a_registry_that_goes_away_or_refuses_us_shows_on_the_open_page(
    pool, chromium, monkeypatch
):
    """Nothing is cleaned meanwhile, so no screen may call that healthy; nor be blank, nor have to be loaded anew."""
    monkeypatch.setattr(registry_watch, "_FRESH", 0.0)
    says = {"status": 200}

    async def answer(_request):
        return web.Response(status=says["status"], headers=REGISTRY, text="{}")

    app = web.Application()
    app.router.add_get("/v2/", answer)
    server = TestServer(app)
    await server.start_server()
    monkeypatch.setenv("RQ_REGISTRY_URL", str(server.make_url("")))
    async with live_api(pool, kafka_bootstrap=NOBODY) as api:
        async with Site(api, chromium).visit("/pipeline") as (page, _seen):
            registry = state(page, "registry")
            await expect(registry).to_have_attribute("data-state", "ok")
            for says["status"], words, mend in (
                (401, "refuses us", "RQ_REGISTRY_USERNAME"),
                (503, "does not answer", "RQ_REGISTRY_URL"),
            ):
                await expect(registry).to_have_attribute("data-state", "failed")
                await expect(registry).to_contain_text(words)
                await expect(registry).to_contain_text(mend)
                await expect(page.locator(".verdict")).to_contain_text("Something is broken.")
            says["status"] = 200
            await expect(registry).to_have_attribute("data-state", "ok")
            await server.close()
            await expect(registry).to_have_attribute("data-state", "failed")
            await expect(registry).to_contain_text("does not answer")
            await expect(registry).not_to_contain_text("Error(")
            await accessible(page)
            await fits(page)
            await shoot(page, "pipeline-registry-away")
        async with Site(api, chromium).visit("/pipeline", width=360, height=740) as (page, _seen):
            await expect(state(page, "registry")).to_contain_text("does not answer")
            await fits(page)
            await shoot(page, "pipeline-registry-away-phone")


async def test_it_reads_on_a_phone_in_the_dark_and_without_scripts(alone):
    options = {"width": 360, "height": 740, "color_scheme": "dark"}
    async with alone.visit("/pipeline", java_script_enabled=False, **options) as (page, _seen):
        await expect(state(page, "kafka")).to_contain_text("does not answer the API process")
        assert await page.locator("[data-check]").count() == 14
    async with alone.visit("/pipeline", **options) as (page, _seen):
        await accessible(page)
        await fits(page)
        await shoot(page, "pipeline-phone-dark")


async def test_it_is_for_those_who_may_see_every_workspace(alone):
    some = await alone.api.token("read", workspaces=["acme"])
    async with alone.visit("/", token=some, forgiving=True) as (page, _seen):
        await expect(page.get_by_role("link", name="Pipeline")).to_have_count(0)
        answer = await page.goto("/pipeline")
        assert answer.status == 403
        assert (await page.goto("/pipeline/live")).status == 403
    everything = await alone.api.token("read", workspaces=None)
    async with alone.visit("/pipeline", token=everything) as (page, _seen):
        await expect(page.locator("[data-check]")).to_have_count(14)
