"""A real browser: Debian's Chromium, driven by Playwright. Where it comes from, and what it noted."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    async_playwright,
)

from devstack.cache import locked
from devstack.config import default_cache_dir

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_INSTALL_SECONDS = 300
# Nothing of its own on the network: no field trials, no component updates, no sign-in.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


async def find_chromium() -> str:
    """The program; installed from Debian's package when root. Skips the test where it cannot be had."""
    if found := _on_path():
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium)")
    async with locked(default_cache_dir(os.environ), "apt"):
        if found := _on_path():  # another process of this test run has been quicker
            return found
        for command in (
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "chromium"],
        ):
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await asyncio.wait_for(process.wait(), _INSTALL_SECONDS)
    if found := _on_path():
        return found
    pytest.skip("no Chromium on the PATH, and Debian's package could not be installed")


def _on_path() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """One browser for all tests; each takes a context of its own."""
    path = await find_chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Seen:
    """What a browser was asked to fetch and what it complained about."""

    base: str
    allowed: tuple[str, ...] = ()
    """Other hosts that are meant to be asked."""
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).netloc not in {urlsplit(self.base).netloc, *self.allowed}:
            self.elsewhere.append(request.url)


@asynccontextmanager
async def a_context(
    browser: Browser,
    base: str,
    *,
    width: int = 1280,
    height: int = 900,
    allowed: tuple[str, ...] = (),
    forgiving: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[BrowserContext, Seen]]:
    """A browser profile of its own. Fails at its end when anything went wrong in it, unless forgiving."""
    context = await browser.new_context(
        base_url=base, viewport={"width": width, "height": height}, **options
    )
    context.set_default_timeout(10_000)
    seen = Seen(base, allowed)
    context.on("page", seen.watch)
    try:
        yield context, seen
    finally:
        await context.close()
    assert forgiving or not seen.complaints, seen.complaints
    assert not seen.elsewhere, seen.elsewhere


SHOTS = Path(os.environ.get("RQ_TEST_SHOTS", ".run/test-screenshots"))


async def shoot(page: Page, name: str, *, whole: bool = True) -> None:
    """Keep a picture as the tests' output."""
    # Without Playwright's own style, which our pages' policy refuses (and complains of).
    await page.screenshot(
        path=SHOTS / f"{name}.png", full_page=whole, caret="initial", animations="allow"
    )


async def accessible(page: Page) -> None:
    """axe-core finds nothing to object to."""
    results = await Axe().run(page)
    found = [
        (item["id"], item["help"], [node["html"][:200] for node in item["nodes"][:3]])
        for item in results.response["violations"]
    ]
    assert not found, (page.url, found)
    assert results.response["passes"], "axe looked at nothing"


async def fits(page: Page) -> None:
    """Nothing makes the page wider than its window."""
    width, window = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window, (page.url, width, window)
