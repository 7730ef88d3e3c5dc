"""The pages with a real ledger and a real registry behind them, in a real browser."""

import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from ledger.contents import content_of_manifest
from ledger.facts import ManifestPushed
from registry.client import RegistryClient
from registry.manifests import parse_manifest
from registry.push import Image, build_image, build_layer, push_image
from runtime.postgres import Pool
from tests.support.browser import Seen, a_context, running_chromium
from tests.support.ledger_images import pushed
from tests.support.live_api import OPERATOR, LiveApi, live_api

GIB = 1024**3

# How long a page takes to have its figures says how busy the machine is: one that cost a second to work
# out is good for ten. What is promised in seconds is measured in seconds.
expect.set_options(timeout=20_000)


@dataclass
class Site:
    """The pages, and how to fill them."""

    api: LiveApi
    browser: Browser

    async def fill(
        self, workspace: str, percent: float, *, quota: int = 10 * GIB, app: str = "api"
    ) -> None:
        """One image, nowhere stored, that uses exactly this much of the quota."""
        await self.api.call("PATCH", f"/v1/workspaces/{workspace}", {"quota_bytes": quota})
        size = int(quota * percent / 100) - 1000
        fact = pushed(f"{workspace}/{app}", "1.0", [(f"{workspace}/{app}", size)])
        await self.api.recorder.record([fact], now=datetime.now(UTC))

    async def push(
        self, client: RegistryClient, repository: str, tag: str, *sizes: int, age: timedelta
    ) -> Image:
        """A real image in the registry, told to the ledger as pushed some time ago."""
        image = build_image([build_layer(uuid.uuid4().hex, size) for size in sizes])
        await push_image(client, repository, image, tag)
        body, media_type = image.manifest.content, image.manifest.media_type
        fact = ManifestPushed(
            "default",
            repository,
            hashlib.sha256(body).digest(),
            (time.time_ns() - int(age.total_seconds() * 1e9), uuid.uuid4().bytes),
            media_type,
            len(body),
            tag,
            content_of_manifest(parse_manifest(body, media_type)),
        )
        await self.api.recorder.record([fact], now=datetime.now(UTC))
        return image

    @asynccontextmanager
    async def visit(
        self, path: str = "/", *, token: str | None = OPERATOR, **options: Any
    ) -> AsyncIterator[tuple[Page, Seen]]:
        """A page, signed in with a token (None: not)."""
        async with a_context(self.browser, self.api.base, **options) as (context, seen):
            page = await context.new_page()
            if token is not None:
                await sign_in(page, token)
            if path != "/" or token is None:
                await page.goto(path)
            yield page, seen


async def sign_in(page: Page, token: str = OPERATOR) -> None:
    await page.goto("/sign-in")
    await page.get_by_label("API token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("button", name="Sign out").wait_for()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with running_chromium() as browser:
        yield browser


@pytest_asyncio.fixture
async def site(pool: Pool, chromium: Browser) -> AsyncIterator[Site]:
    async with live_api(pool) as api:
        yield Site(api, chromium)
