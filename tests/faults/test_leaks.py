"""Requests that are given up, slow clients and hours of load leave nothing behind."""

import asyncio
import random
import time
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from runtime.settings import Settings
from tests.faults.conftest import Faulty
from tests.support.consumers import event
from tests.support.deliveries import envelope
from tests.support.live_api import OPERATOR, live_api
from tests.support.load import new_connections
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("leaks")

SEED = 20261125
PARTS = ("receiver", "consumer", "api")
POOL = Settings.model_fields["database_pool_size"].default
MOST_CONNECTIONS = POOL + POOL // 3 + 2
"""To Postgres, of one process: its pool, that of the hook, the relay's own, one to cancel a question."""
MOST_OTHER_FILES = 5
"""Connections to Kafka and the registry that are opened anew."""


@dataclass(frozen=True)
class State:
    """What a process holds."""

    memory: int
    """Bytes resident."""
    callers: int
    """Connections at its door whose other end nobody has any more."""
    database: int
    """Connections to Postgres."""
    others: int
    """All other open files."""


def process_of(faulty: Faulty, part: str) -> psutil.Process:
    """Its running process."""
    pid = faulty.stack.pid(part)
    assert pid is not None
    return psutil.Process(pid)


def state_of(faulty: Faulty, part: str) -> State:
    """A part as the system sees it."""
    process = process_of(faulty, part)
    connections = [each for each in process.net_connections("tcp") if each.raddr]
    # The API looks at the receiver's figures, and this process at everything.
    known = [psutil.Process(), *(process_of(faulty, other) for other in PARTS)]
    ours = {each.laddr.port for one in known for each in one.net_connections("tcp")}
    doors = {urlsplit(faulty.environment[url]).port for url in ("RQ_WEBHOOK_URL", "RQ_API_URL")}
    incoming = [each for each in connections if each.laddr.port in doors]
    callers = [each for each in incoming if each.raddr.port not in ours]
    database = [each for each in connections if each.raddr.port == faulty.proxies.postgres.port]
    files = process.num_fds() - len(incoming) - len(database)
    return State(process.memory_info().rss, len(callers), len(database), files)


def states_of(faulty: Faulty) -> dict[str, State]:
    """All parts of ours."""
    return {part: state_of(faulty, part) for part in PARTS}


def assert_flat(
    promise: Promise, what: str, states: list[dict[str, State]], counts: list[int], *, slack: int
) -> None:
    """What grows with each request or event grows in the second half as in the first; caches do not.

    `states`: before, between, after; `slack`: bytes that the second half may grow by, and by a
    quarter of a KiB each: a leak of one object each is more.
    """
    for part in PARTS:
        for half, number in enumerate(counts):
            grown = max(0, states[half + 1][part].memory - states[half][part].memory)
            label = f"{part}: bytes {what}, {('first', 'second')[half]} half"
            promise.worst(label, grown / number, "B")
        assert grown < slack + 256 * counts[1], (part, states)


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
    half, chance = scale.pick(400, 5000), random.Random(SEED)
    await cancelled(faulty, 2 * half, chance)  # caches and pools fill
    await faulty.settled()
    states = [states_of(faulty)]
    for _ in range(2):
        await cancelled(faulty, half, chance)
        await faulty.settled()
        states.append(states_of(faulty))

    def are_closed() -> bool:
        return not any(state.callers for state in states_of(faulty).values())

    await wait_until(are_closed, 20, what="every caller's connection is closed")

    def files_are_back() -> bool:
        now = states_of(faulty)
        return all(now[p].others <= states[0][p].others + MOST_OTHER_FILES for p in PARTS)

    await wait_until(files_are_back, 20, what="every other file is closed")
    after = states_of(faulty)
    promise.count("cancelled requests", 4 * half)
    promise.worst("connections left open", sum(state.callers for state in after.values()), "")
    promise.worst(
        f"connections to Postgres of one process (at most {MOST_CONNECTIONS})",
        max(state.database for state in after.values()),
        "",
    )
    assert all(state.database <= MOST_CONNECTIONS for state in after.values()), after
    assert_flat(promise, "a request", states, [half, half], slack=4 * 2**20)
    for part in ("receiver", "api"):
        assert await faulty.readiness(part) == 200


async def test_no_task_outlives_its_cancelled_request(pool, promise: Promise, scale: Scale):
    times, chance = scale.pick(300, 10_000), random.Random(SEED)
    async with live_api(pool) as api:
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**9})
        before = asyncio.all_tasks()
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

        def ended() -> bool:
            left = asyncio.all_tasks() - before
            assert len(left) <= 1, left  # the API's own work may be under way
            return True

        await wait_until(ended, 20, what="their tasks have ended")
        promise.count("of them watched for tasks", times)
        promise.count("tasks left", max(0, len(asyncio.all_tasks()) - len(before)))
        assert (await api.call("GET", "/v1/workspaces/acme/usage"))[0] == 200


async def test_memory_stays_flat_under_lasting_load(faulty: Faulty, promise: Promise, scale: Scale):
    """A soak: what grows with every event shows as a slope once caches are full."""
    load, seconds = faulty.load(), scale.pick(2, 120) / 2
    name = f"soak{uuid.uuid4().hex[:6]}"
    load.make = lambda _id, number: event(f"{name}/app{number % 5}", tag=str(number % 50))
    states, events = [], [0]
    async with load.running("soak", workers=4):
        await load.reaches(300)
        states.append(states_of(faulty))
        first = len(load.acknowledged)
        for _ in range(2):
            until = time.monotonic() + seconds
            await wait_until(lambda: time.monotonic() > until, seconds + 5, interval=0.2)  # noqa: B023 - awaited here
            events.append(len(load.acknowledged) - first)
            states.append(states_of(faulty))
    await faulty.settled()
    promise.count("soaked with events", events[2])
    assert_flat(
        promise, "an event of the soak", states, [events[1], events[2] - events[1]], slack=8 * 2**20
    )
    assert await faulty.drifted() == []
