"""Who sends a body slowly, or never, keeps nobody else waiting: places are for requests that are there."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import psutil
import pytest

from quota.api.gate import Gate
from runtime.postgres import Pool
from tests.support.live_api import LiveApi, live_api
from tests.support.promises import Promise

pytestmark = pytest.mark.promise("back-pressure")

IDLE = 1000
HOOK = "/v1/hooks/pre-build"


@asynccontextmanager
async def idle_requests(api: LiveApi, path: str, *, token: str = "") -> AsyncIterator[None]:
    """Heads of POSTs whose bodies never come."""
    at = urlsplit(api.base)
    head = f"POST {path} HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Length: 50\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    async with AsyncExitStack() as stack:
        for _ in range(IDLE):
            _reader, writer = await asyncio.open_connection(at.hostname, at.port)
            stack.callback(writer.close)
            writer.write(f"{head}\r\n".encode())
            await writer.drain()
        yield


async def hook(api: LiveApi, token: str) -> float:
    """Seconds that a build waits for its answer."""
    started = time.monotonic()
    status, answer = await api.call("POST", HOOK, {"workspace": "acme"}, token=token)
    assert (status, answer["decision"]) == (200, "proceed"), answer
    return time.monotonic() - started


@pytest.mark.parametrize("who", ["nobody", "a caller"])
async def test_a_thousand_idle_requests_keep_no_build_waiting(
    pool: Pool, promise: Promise, who: str
):
    async with live_api(pool) as api:
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**9})
        token, other = [await api.token("hook", workspaces=["acme"]) for _ in range(2)]
        path = "/sign-in" if who == "nobody" else HOOK
        before = psutil.Process().memory_info().rss
        async with idle_requests(api, path, token="" if who == "nobody" else other):
            waits = [await hook(api, token) for _ in range(20)]
            promise.worst(f"a build beside {IDLE} idle requests of {who}", max(waits))
            grown = psutil.Process().memory_info().rss - before
            promise.worst(f"memory of {IDLE} idle requests", grown, "B")
            async with api.session.get(f"{api.base}/readyz") as ready:
                assert ready.status == 200
            # Who has an account looks at what they like meanwhile.
            assert (await api.call("GET", "/v1/workspaces/acme/usage"))[0] == 200
        assert max(waits) < 2


async def test_the_last_places_are_for_builds_and_readiness_says_so(pool: Pool):
    gate = Gate(most=10)
    async with live_api(pool, gate=gate) as api:
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**9})
        token = await api.token("hook", workspaces=["acme"])
        gate.open += 8
        assert (await api.call("GET", "/v1/workspaces/acme/usage"))[0] == 503
        await hook(api, token)
        async with api.session.get(f"{api.base}/readyz") as ready:
            assert ready.status == 503
            assert "only builds" in await ready.text()
        gate.open -= 8
        assert (await api.call("GET", "/v1/workspaces/acme/usage"))[0] == 200
