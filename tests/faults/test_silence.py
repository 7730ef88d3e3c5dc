"""Kafka or Postgres goes silent: connections stay open, nothing comes back, and nobody waits for ever."""

import asyncio
import time
import uuid
from collections import Counter

import pytest

import runtime.postgres
from quota.api.gate import Gate
from runtime.postgres import open_pool
from tests.faults.conftest import Faulty
from tests.support.consumers import event
from tests.support.deliveries import envelope
from tests.support.fault_proxy import fault_proxy
from tests.support.live_api import live_api
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

AT_ONCE = 20


def behind(url: str, port: int) -> tuple[str, int]:
    """A database's URL at another port, and its own port."""
    head, tail = url.rsplit(":", 1)
    own, name = tail.split("/", 1)
    return f"{head}:{port}/{name}", int(own)


@pytest.mark.promise("back-pressure")
async def test_beside_a_silent_database_requests_are_refused_and_given_up(
    database_url: str, promise: Promise, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runtime.postgres, "ACQUIRE_TIMEOUT", 1.0)
    _url, port = behind(database_url, 0)
    async with fault_proxy(port) as proxy:
        url, _port = behind(database_url, proxy.port)
        pool = await open_pool(url, size=4, name="silent")
        try:
            gate = Gate(most=AT_ONCE, read_seconds=1.0)
            async with live_api(pool, gate=gate) as api:
                path = "/v1/workspaces/acme"
                assert (await api.call("PATCH", path, {"quota_bytes": 10**9}))[0] == 200
                answers: Counter[int] = Counter()
                took: list[float] = []

                async def ask() -> None:
                    started = time.monotonic()
                    answers[(await api.call("GET", f"{path}/usage"))[0]] += 1
                    took.append(time.monotonic() - started)

                async with proxy.silent():
                    await asyncio.gather(*(ask() for _ in range(10 * AT_ONCE)))
                assert gate.open == 0
                await wait_until(lambda: _answers(api, path), 10, what="it answers again")
        finally:
            pool.terminate()
    promise.count("questions to a silent database", 10 * AT_ONCE)
    promise.count("refused at once", gate.refused)
    promise.worst("the others given up after (bounds of 1 s and 1 s)", max(took))
    assert answers == {503: 10 * AT_ONCE}
    assert gate.refused >= 9 * AT_ONCE - 4
    assert sorted(took)[8 * AT_ONCE] < 1, "most were refused at once"
    assert max(took) < 6


async def _answers(api, path: str) -> bool:
    return bool((await api.call("GET", f"{path}/usage"))[0] == 200)


@pytest.mark.promise("database-away")
async def test_a_silent_database_stops_no_build_and_readiness_tells(
    faulty: Faulty, promise: Promise, scale: Scale
):
    name = f"q{uuid.uuid4().hex[:6]}"
    assert (await faulty.call("PATCH", f"/v1/workspaces/{name}", {"quota_bytes": 10**9}))[0] == 200
    async with faulty.proxies.postgres.silent():
        started = time.monotonic()
        status, answer = await faulty.call(
            "POST", "/v1/hooks/pre-build", {"workspace": name, "timeout_s": 2}
        )
        promise.worst(
            "hook's answer beside a silent database (timeout_s 2)", time.monotonic() - started
        )
        assert (status, answer["decision"], answer["reason"]) == (200, "proceed", "check_failed")
        assert time.monotonic() - started < 4
        started = time.monotonic()
        assert await faulty.readiness("api") == 503
        promise.worst("not ready within", time.monotonic() - started)
        assert time.monotonic() - started < 8
        assert await faulty.notify(envelope(event(f"{name}/app"))) == 202
        if scale.long:
            started = time.monotonic()
            assert (await faulty.call("GET", f"/v1/workspaces/{name}/usage"))[0] == 503
            promise.worst("a question given up after", time.monotonic() - started)
            assert time.monotonic() - started < 40
    started = time.monotonic()
    await wait_until(lambda: _counted(faulty, name), 90, what="the event is recorded")
    promise.worst("recorded after the silence within", time.monotonic() - started)


async def _all_told(faulty: Faulty) -> bool:
    waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
    return bool(await faulty.pool.fetchval(waiting) == 0)


async def _counted(faulty: Faulty, name: str) -> bool:
    return await faulty.usage(name) == 5100


@pytest.mark.promise("broker-away")
async def test_consumer_and_relay_go_on_after_a_silent_broker(
    faulty: Faulty, promise: Promise, scale: Scale
):
    """While the broker is silent they wait, however long; afterwards everything is recorded and told."""
    name = f"b{uuid.uuid4().hex[:6]}"
    load = faulty.load()
    load.make = lambda _id, number: event(f"{name}/app{number % 3}")
    for _ in range(scale.pick(1, 2)):
        async with load.running("silent", workers=4):
            await load.reaches(100)
            async with faulty.proxies.kafka.silent():
                refused = load.answers[503]
                await wait_until(lambda: load.answers[503] > refused, 10)  # noqa: B023 - awaited here
                # Long enough for every client's own time-outs, in the long form.
                await asyncio.sleep(scale.pick(1, 45))
            started = time.monotonic()
            await load.reaches(1)
        await faulty.settled(90)
        promise.worst("consumer recovered within", time.monotonic() - started)
        await wait_until(lambda: _all_told(faulty), 90, what="every event is published")
        promise.worst("relay recovered within", time.monotonic() - started)
    assert await faulty.drifted() == []
