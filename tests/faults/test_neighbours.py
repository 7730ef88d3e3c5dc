"""Who sends much, has much, or asks for what nobody knows, keeps no build of another waiting."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from runtime.postgres import Pool
from tests.support.live_api import LiveApi, live_api
from tests.support.promises import Promise

pytestmark = pytest.mark.promise("back-pressure")

HOOK = "/v1/hooks/pre-build"


@asynccontextmanager
async def building(api: LiveApi) -> AsyncIterator[list[float]]:
    """Builds of a workspace called `other`, one after the other; the seconds that each waited."""
    stop, waited = asyncio.Event(), list[float]()

    async def ask() -> None:
        while not stop.is_set():
            asked = time.monotonic()
            body = {"workspace": "other", "incoming_bytes": 1}
            status, answer = await api.call("POST", HOOK, body)
            assert (status, answer["decision"]) == (200, "proceed")
            waited.append(time.monotonic() - asked)

    asking = asyncio.create_task(ask())
    try:
        yield waited
    finally:
        stop.set()
        await asking


def digests(count: int, seed: int) -> list[str]:
    return [
        f"sha256:{hashlib.sha256(f'{seed}/{number}'.encode()).hexdigest()}"
        for number in range(count)
    ]


async def test_all_that_a_workspace_may_have_in_use_is_planned_beside_other_builds(
    pool: Pool, promise: Promise
):
    """With what could be reported before there was a bound: 8 s, and 600 MiB."""
    async with live_api(pool) as api:
        for name in ("acme", "other"):
            await api.call("PUT", f"/v1/workspaces/{name}", {"quota_bytes": 10**9})
        before = psutil.Process().memory_info().rss
        async with building(api) as waited:
            for number in range(11):
                body = {"source": f"cluster-{number}", "digests": digests(10_000, number)}
                status, _answer = await api.call("POST", "/v1/workspaces/acme/leases", body)
                assert status == (201 if number < 10 else 409)
            plans = "/v1/workspaces/acme/cleanup-plans"
            made = await asyncio.gather(*(api.raw("POST", plans, json={}) for _number in range(4)))
            assert [status for status, *_rest in made] == [200] * 4
        grown = psutil.Process().memory_info().rss - before
        promise.worst("a build beside 100,000 digests in use of another", max(waited))
        promise.worst("memory of four plans with them", grown / 2**20, "MiB")
        assert max(waited) < 3
        assert grown < 300 * 2**20


async def test_builds_of_names_that_nobody_knows_are_told_near_ones_beside_other_builds(
    pool: Pool, promise: Promise
):
    """Of 2000 long names all were compared, with a connection in hand: 8 s."""
    chance = random.Random(3)

    def name() -> str:
        return "".join(chance.choices("abcde", k=250))

    async with live_api(pool) as api:
        await api.call("PUT", "/v1/workspaces/other", {"quota_bytes": 10**9})
        await pool.executemany(
            "INSERT INTO workspaces (name, quota_bytes, configured) VALUES ($1, 1000, true)",
            [(name(),) for _number in range(2000)],
        )
        async with building(api) as waited:
            asked = [{"workspace": name(), "incoming_bytes": 1} for _number in range(30)]
            answers = await asyncio.gather(*(api.call("POST", HOOK, body) for body in asked))
        assert {status for status, _answer in answers} == {200}
        promise.worst("a build beside 30 of names that nobody knows", max(waited))
        assert max(waited) < 3
