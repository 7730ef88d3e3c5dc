"""The pages in this process, on a database of the test's own, without a browser."""

from collections.abc import AsyncIterator

import pytest_asyncio

from runtime.postgres import Pool
from tests.support.live_api import LiveApi, live_api
from tests.support.visitor import Visitor


@pytest_asyncio.fixture
async def api(pool: Pool) -> AsyncIterator[LiveApi]:
    async with live_api(pool) as running:
        yield running


@pytest_asyncio.fixture
async def visitor(api: LiveApi) -> Visitor:
    """Signed in as the operator."""
    found = Visitor(api)
    assert (await found.sign_in()).status == 303
    return found
