"""What stands on a screen is what is true: no change is lost, whenever it comes."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from playwright.async_api import expect

from tests.browser.conftest import GIB, sign_in
from tests.support.browser import a_context
from tests.support.fault_proxy import fault_proxy
from tests.support.ledger_images import pushed


async def push(site, repository, size, tag="2.0"):
    fact = pushed(repository, tag, [(f"{repository}:{tag}", size)])
    await site.api.recorder.record([fact], now=datetime.now(UTC))


async def reserve(site):
    body = {"build_id": "ci-1", "app": "api", "bytes": GIB}
    status, _answer = await site.api.call("POST", "/v1/workspaces/acme/reservations", body)
    assert status == 201


async def report(site):
    image = (await site.api.call("GET", "/v1/workspaces/acme/images"))[1]["items"][0]
    body = {"source": "k8s", "digests": [image["digest"]], "ttl_s": 600}
    await site.api.call("POST", "/v1/workspaces/acme/leases", body)


async def enforce(site):
    await site.api.call("PATCH", "/v1/workspaces/acme", {"enforcement": "strict"})


CHANGES = {
    "a push": (lambda site: push(site, "acme/web", GIB), "#part-images", "acme/web"),
    "a reservation": (reserve, "#part-summary .legend", "1 build 1 GB"),
    "what is in use": (report, "#part-images", "lease k8s"),
    "settings": (enforce, ".summary-head", "strict"),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_happens_between_a_page_and_its_stream_is_not_lost(site, what):
    change, part, text = CHANGES[what]
    await site.fill("acme", 50)
    async with site.visit() as (page, _seen):

        async def meanwhile(route):
            # The page is made, and its stream asks for the first time.
            await change(site)
            await route.continue_()

        await page.route("**/workspaces/acme/live*", meanwhile)
        await page.goto("/workspaces/acme")
        await expect(page.locator(part)).to_contain_text(text)


@pytest.mark.parametrize("answer", ["nobody", "an error"])
async def test_what_happens_while_the_connection_is_away_shows_when_it_is_back(site, answer):
    await site.fill("acme", 50)
    async with (
        fault_proxy(urlsplit(site.api.base).port) as proxy,
        a_context(site.browser, f"http://127.0.0.1:{proxy.port}", forgiving=True) as (context, _),
    ):
        page = await context.new_page()
        await sign_in(page)
        async with page.expect_response("**/workspaces/acme/live*"):
            await page.goto("/workspaces/acme")
        rows = page.locator("#part-images tbody tr")
        await push(site, "acme/web", GIB, "1")
        await expect(rows).to_have_count(2)
        if answer == "nobody":
            await proxy.refuse()
        else:
            await page.route("**/live*", lambda route: route.fulfill(status=503))
        proxy.cut()
        await push(site, "acme/web", GIB, "2")
        await expect(rows).to_have_count(2)
        if answer == "nobody":
            await proxy.listen()
        else:
            await page.unroute("**/live*")
        await expect(rows).to_have_count(3, timeout=20_000)


async def test_figures_that_were_older_than_the_page_are_replaced_by_themselves(site, monkeypatch):
    # As in a workspace so large that its plan is not made anew for each look.
    monkeypatch.setattr("quota.pages.figures._good_for", lambda _cost_seconds: 5.0)
    await site.fill("acme", 50)
    async with site.visit("/workspaces/acme") as (page, _seen):
        await expect(page.locator("#part-apps")).to_contain_text("api")
        await push(site, "acme/web", GIB)
        await expect(page.locator("#part-apps")).to_contain_text("web", timeout=30_000)


async def test_the_list_of_workspaces_follows_what_is_pushed(site):
    await site.fill("acme", 50)
    async with site.visit("/") as (page, _seen):
        row = page.locator(".workspace-row")
        await expect(row).to_have_count(1)
        await row.focus()
        await push(site, "globex/web", GIB)
        await expect(row).to_have_count(2, timeout=15_000)
        await expect(page.locator("#totals")).to_contain_text("2 workspaces")
        await expect(page.locator(".workspace-row", has_text="acme")).to_be_focused()


@pytest.mark.parametrize("path", ["/", "/workspaces/acme", "/pipeline"])
async def test_a_page_out_of_the_browsers_memory_is_fetched_anew(site, path):
    await site.fill("acme", 50)
    back = "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"
    async with (
        site.visit(path, forgiving=path == "/pipeline") as (page, _seen),
        page.expect_navigation(),
    ):
        await page.evaluate(back)


async def test_the_page_of_a_cleanup_that_runs_shows_how_it_goes(site):
    await site.fill("acme", 50)
    run = "7a6e8f3e-0d55-4d0b-8a55-2c2f1d3b7a10"
    async with site.api.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes,"
            " usage_before, promised_bytes, heartbeat_at)"
            " SELECT $1, id, 'running', 'asked for', 'test', 1, 1, 1, $2 FROM workspaces",
            run,
            datetime.now(UTC) + timedelta(hours=1),
        )
        async with site.visit(f"/workspaces/acme/cleanups/{run}") as (page, _seen):
            await expect(page.locator(".state-running")).to_be_visible()
            await connection.execute(
                "UPDATE cleanup_runs SET state = 'finished', finished_at = now() WHERE id = $1", run
            )
            await expect(page.locator(".state-finished")).to_be_visible()
