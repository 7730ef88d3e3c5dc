"""The API in this process, on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest_asyncio

from runtime.postgres import Pool
from tests.support.live_api import LiveApi, live_api


@pytest_asyncio.fixture
async def api(pool: Pool) -> AsyncIterator[LiveApi]:
    async with live_api(pool) as running:
        yield running
