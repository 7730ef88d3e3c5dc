"""The warning, in its exact words: on our pages, and on somebody else's by one script tag."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Route, expect

from devstack.ports import free_port
from tests.browser.conftest import Site
from tests.support.browser import a_context, accessible, shoot
from tests.support.live_api import live_api

EXAMPLE = Path(__file__).parents[2] / "docs" / "warning-example.html"
USAGE = "Registry Usage Warning"
FULL = "Registry Almost Full"
EXCEEDED = "Registry Quota Exceeded"
ADVICE = "Consider adding your own registry or cleaning up old images."
NEXT = "Oldest images will be automatically cleaned up on next build."
WORDS = {
    69: None,
    70: (USAGE, f"Using 7 GB of 10 GB (70%). {ADVICE}"),
    72: (USAGE, f"Using 7.2 GB of 10 GB (72%). {ADVICE}"),
    89: (USAGE, f"Using 8.9 GB of 10 GB (89%). {ADVICE}"),
    90: (FULL, f"Using 9 GB of 10 GB (90%). {NEXT}"),
    100: (EXCEEDED, f"Using 10 GB of 10 GB (100%). {NEXT}"),
}


async def test_our_pages_warn_from_70_percent_on(site):
    for percent in WORDS:
        await site.fill(f"at-{percent}", percent)
    async with site.visit() as (page, _seen):
        for percent, words in WORDS.items():
            await page.goto(f"/workspaces/at-{percent}")
            shown = page.locator("[data-notice]")
            if words is None:
                await expect(shown).to_have_count(0)
            else:
                await expect(shown.locator("strong")).to_have_text(words[0])
                await expect(shown.locator("p")).to_have_text(words[1])


@asynccontextmanager
async def elsewhere(port: int, *, quota_url: str, **pages: str) -> AsyncIterator[str]:
    """Somebody else's server, with the example page for each (path → workspace and token)."""

    async def page(request: web.Request) -> web.Response:
        workspace, token = pages[request.match_info["name"]].split(" ")
        text = EXAMPLE.read_text().replace("QUOTA_URL", quota_url)
        text = text.replace('workspace="WORKSPACE"', f'workspace="{workspace}"')
        return web.Response(
            text=text.replace('token="TOKEN"', f'token="{token}"'),
            content_type="text/html",
            # The strictest policy that such a page can have.
            headers={
                "Content-Security-Policy": f"default-src 'none'; script-src {quota_url}; "
                f"connect-src {quota_url}; img-src data:"
            },
        )

    app = web.Application()
    app.router.add_get("/{name}", page)
    server = TestServer(app, host="127.0.0.1", port=port)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.close()


async def test_the_element_says_the_same_on_other_peoples_pages(pool, chromium):
    port = free_port()
    async with live_api(pool, cors_origins=f"http://127.0.0.1:{port}") as api:
        site, pages = Site(api, chromium), {}
        for percent in WORDS:
            name = f"at-{percent}"
            await site.fill(name, percent)
            token = await api.token("read", workspaces=[name], ttl_s=3600)
            pages[name] = f"{name} {token}"
        host = urlsplit(api.base).netloc
        async with (
            elsewhere(port, quota_url=api.base, **pages) as base,
            a_context(chromium, base, allowed=(host,)) as (context, _seen),
        ):
            page = await context.new_page()
            await page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
            for percent, words in WORDS.items():
                async with page.expect_response("**/usage") as answer:
                    await page.goto(f"/at-{percent}")
                assert (await answer.value).status == 200
                element = page.locator("registry-quota-warning")
                if words is None:
                    # It has answered, and a moment later still shows nothing.
                    await page.evaluate("new Promise(done => setTimeout(done, 200))")
                    assert await element.evaluate("it => it.shadowRoot.childElementCount") == 0
                    assert (await element.bounding_box() or {"height": 0})["height"] == 0
                else:
                    await expect(element.locator("strong")).to_have_text(words[0])
                    await expect(element.locator("p")).to_have_text(words[1])
            await accessible(page)
            await shoot(page, "warning-elsewhere", whole=False)
            # No style of its own leaves the element.
            assert await page.evaluate("document.adoptedStyleSheets.length") == 0
            assert await page.evaluate("document.querySelectorAll('style').length") == 0


async def answer(route: Route, *, body: str, headers: dict[str, str]) -> None:
    await route.fulfill(body=body, headers=headers)


async def test_the_element_shows_nothing_while_it_loads_and_when_anything_fails(pool, chromium):
    port = free_port()
    async with live_api(pool, cors_origins=f"http://127.0.0.1:{port}") as api:
        site = Site(api, chromium)
        await site.fill("acme", 95)
        token = await api.token("read", workspaces=["acme"])
        pages = {"wrong": "acme nonsense", "missing": f"other {token}", "good": f"acme {token}"}
        host = urlsplit(api.base).netloc
        async with (
            elsewhere(port, quota_url=api.base, **pages) as base,
            a_context(chromium, base, allowed=(host,), forgiving=True) as (context, seen),
        ):
            page = await context.new_page()
            await page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
            element = page.locator("registry-quota-warning")
            nothing = "it => it.shadowRoot.childElementCount === 0 && !it.hasAttribute('severity')"
            for name in ("wrong", "missing"):
                async with page.expect_response("**/usage"):
                    await page.goto(f"/{name}")
                await page.evaluate("new Promise(done => setTimeout(done, 100))")
                assert await element.evaluate(nothing), name
            held: list[Route] = []
            await page.route("**/usage", lambda route: held.append(route))  # noqa: PLW0108 - playwright marks it
            async with page.expect_request("**/usage"):
                await page.goto("/good")
            assert await element.evaluate(nothing)
            for body in ("not JSON", "{}", '{"usage_bytes": 5, "quota_bytes": 0}', "null"):
                await page.unroute("**/usage")
                answered = {"Access-Control-Allow-Origin": base}
                await page.route("**/usage", partial(answer, body=body, headers=answered))
                async with page.expect_response("**/usage"):
                    await element.evaluate("it => it.setAttribute('refresh', Math.random() + 9)")
                await page.evaluate("new Promise(done => setTimeout(done, 100))")
                assert await element.evaluate(nothing), body
            await page.unroute("**/usage")
            await element.evaluate("it => it.setAttribute('refresh', 0)")
            await expect(element.locator("strong")).to_have_text(FULL)
            # Nothing but the refused requests themselves is complained about.
            assert all("Failed to load resource" in text for text in seen.complaints)


async def test_a_page_that_is_not_listed_is_told_nothing(pool, chromium):
    port = free_port()
    async with live_api(pool, cors_origins="https://dashboard.example.com") as api:
        await Site(api, chromium).fill("acme", 95)
        token = await api.token("read", workspaces=["acme"])
        host = urlsplit(api.base).netloc
        async with (
            elsewhere(port, quota_url=api.base, page=f"acme {token}") as base,
            a_context(chromium, base, allowed=(host,), forgiving=True) as (context, _seen),
        ):
            page = await context.new_page()
            async with page.expect_event("requestfailed"):
                await page.goto("/page")
            await page.evaluate("new Promise(done => setTimeout(done, 100))")
            element = page.locator("registry-quota-warning")
            assert await element.evaluate("it => it.shadowRoot.childElementCount") == 0
