"""Requests that are given up, slow clients and hours of load leave nothing behind."""

import asyncio
import random
import time
import uuid
from pathlib import Path

import aiohttp
import pytest

from tests.faults.conftest import Faulty
from tests.support.consumers import event
from tests.support.deliveries import envelope
from tests.support.live_api import OPERATOR, live_api
from tests.support.load import new_connections
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("leaks")

SEED = 20261125
POOLS = 20
"""Connections that pools may open and keep."""

PARTS = ("receiver", "consumer", "api")


def resident(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError(pid)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def state_of(faulty: Faulty) -> dict[str, tuple[int, int]]:
    """Part → bytes resident and files open."""
    found = {}
    for part in PARTS:
        pid = faulty.stack.pid(part)
        assert pid is not None
        found[part] = (resident(pid), open_files(pid))
    return found


async def database_connections(faulty: Faulty) -> int:
    return int(
        await faulty.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'registry-quota%'"
        )
    )


async def cancelled(faulty: Faulty, times: int, chance: random.Random) -> None:
    """Requests of all kinds whose clients go away somewhere in the middle."""
    token = faulty.environment["RQ_API_TOKEN"]
    api = faulty.environment["RQ_API_URL"]
    webhook = faulty.environment["RQ_WEBHOOK_URL"]
    name = f"gone{uuid.uuid4().hex[:6]}"

    async def one(http: aiohttp.ClientSession) -> None:
        kind = chance.randrange(4)
        if kind == 0:
            body = envelope(event(f"{name}/app"))
            authorized = {"Authorization": f"Bearer {faulty.environment['RQ_WEBHOOK_TOKEN']}"}
            request = http.post(webhook, data=body, headers=authorized)
        elif kind == 1:
            told = {"workspace": name, "incoming_bytes": 1000}
            request = http.post(
                f"{api}/v1/hooks/pre-build", json=told, headers={"Authorization": f"Bearer {token}"}
            )
        else:
            path = "/v1/workspaces" if kind == 2 else "/v1/status"
            request = http.get(f"{api}{path}", headers={"Authorization": f"Bearer {token}"})
        try:
            async with asyncio.timeout(chance.uniform(0.0005, 0.03)), request as answer:
                await answer.read()
        except (TimeoutError, OSError, aiohttp.ClientError):
            return

    async def work(share: int) -> None:
        async with new_connections() as http:
            for _ in range(share):
                await one(http)

    await asyncio.gather(*(work(times // 16) for _ in range(16)))


async def test_cancelled_requests_leave_nothing_behind(
    faulty: Faulty, promise: Promise, scale: Scale
):
    times, chance = scale.pick(800, 10_000), random.Random(SEED)
    await cancelled(faulty, times // 2, chance)  # caches and pools fill
    before, connections = state_of(faulty), await database_connections(faulty)
    await cancelled(faulty, times, chance)

    def files_are_back() -> bool:
        return all(
            now[1] <= then[1] + POOLS
            for now, then in zip(state_of(faulty).values(), before.values(), strict=True)
        )

    await wait_until(files_are_back, 20, what="every connection is closed")
    await faulty.settled()
    after = state_of(faulty)
    more = await database_connections(faulty) - connections
    promise.count("cancelled requests", times + times // 2)
    promise.worst("connections left open", max(0, *(after[p][1] - before[p][1] for p in PARTS)), "")
    promise.worst("database connections more", max(0, more), "")
    for part in PARTS:
        promise.worst(
            f"{part}: bytes a request",
            max(0, after[part][0] - before[part][0]) / times,
            "B",
        )
        assert after[part][0] - before[part][0] < 48 * 2**20, part
    assert more <= POOLS
    for part in PARTS:
        assert await faulty.readiness(part) == 200 if part != "consumer" else True


async def test_no_task_outlives_its_cancelled_request(pool, promise: Promise, scale: Scale):
    times, chance = scale.pick(300, 10_000), random.Random(SEED)
    async with live_api(pool) as api:
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**9})
        before = len(asyncio.all_tasks())
        headers = {"Authorization": f"Bearer {OPERATOR}"}

        async def one() -> None:
            told = {"workspace": "acme", "incoming_bytes": 1, "build_id": str(chance.random())}
            try:
                async with (
                    asyncio.timeout(chance.uniform(0.0005, 0.05)),
                    http.post(f"{api.base}/v1/hooks/pre-build", json=told, headers=headers) as a,
                ):
                    await a.read()
            except (TimeoutError, OSError, aiohttp.ClientError):
                return

        async with new_connections() as http:
            for _ in range(0, times, 20):
                await asyncio.gather(*(one() for _ in range(20)))
        await wait_until(
            lambda: len(asyncio.all_tasks()) <= before + 1, 20, what="their tasks have ended"
        )
        promise.count("of them watched for tasks", times)
        promise.count("tasks left", max(0, len(asyncio.all_tasks()) - before))
        assert (await api.call("GET", "/v1/workspaces/acme/usage"))[0] == 200


async def test_memory_stays_flat_under_lasting_load(faulty: Faulty, promise: Promise, scale: Scale):
    """A soak: what grows with every event shows as a slope once caches are full."""
    load, seconds = faulty.load(), scale.pick(2, 120)
    name = f"soak{uuid.uuid4().hex[:6]}"
    load.make = lambda _id, number: event(f"{name}/app{number % 5}", tag=str(number % 50))
    async with load.running("soak", workers=4):
        await load.reaches(300)
        before, first = state_of(faulty), len(load.acknowledged)
        until = time.monotonic() + seconds
        await wait_until(lambda: time.monotonic() > until, seconds + 5, interval=0.2)
        events = len(load.acknowledged) - first
    await faulty.settled()
    after = state_of(faulty)
    promise.count("soaked with events", events)
    for part in PARTS:
        grown = after[part][0] - before[part][0]
        promise.worst(f"{part}: bytes an event of the soak", max(0, grown) / events, "B")
        assert grown < 64 * 2**20, part
    assert await faulty.drifted() == []
