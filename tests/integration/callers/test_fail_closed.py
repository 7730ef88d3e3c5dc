"""RQ_FAIL=closed: the owner of a strict workspace wants no build whose quota was not checked."""

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from quota.api.gate import Gate
from registry_quota import RefusedError, RegistryQuota, UnreachableError
from runtime.http import serving
from tests.integration.callers.test_pre_build_script import (
    GIGABYTE,
    SHELLS,
    answered,
    run,
    shell_and_path,
)
from tests.support.fault_proxy import fault_proxy
from tests.support.live_api import OPERATOR, live_api

CLOSED: dict[str, Any] = {"RQ_FAIL": "closed", "RQ_WAIT": "0", "RQ_TIMEOUT": "1"}
STOPS = "registry-quota: the quota was not checked, and RQ_FAIL=closed stops the build: "
GOES_ON = "registry-quota: the quota was not checked, the build goes on: "


@asynccontextmanager
async def stopped(_pool):
    yield "http://127.0.0.1:9"


@asynccontextmanager
async def frozen(pool):
    async with live_api(pool) as api, fault_proxy(int(api.base.rpartition(":")[2])) as proxy:
        proxy.silence()
        yield f"http://127.0.0.1:{proxy.port}"
        proxy.heal()


@asynccontextmanager
async def overloaded(pool):
    async with live_api(pool, gate=Gate(most=0)) as api:
        yield api.base


@asynccontextmanager
async def answering(status, text):
    async def hook(_request):
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_post("/v1/hooks/pre-build", hook)
    async with serving(app, host="127.0.0.1", port=0, drain_seconds=0.1) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def without_a_database(pool):
    async with live_api(pool) as api:
        await pool.close()
        yield api.base


NO_ANSWER: dict[str, Any] = {
    "stopped": (stopped, "curl: (7)"),
    "frozen": (frozen, "curl: (28)"),
    "overloaded": (overloaded, "the API answered 503: 0 requests are being worked on"),
    "500": (lambda _pool: answering(500, "<html>boom</html>"), "the API answered 500"),
    "404 of a proxy": (lambda _pool: answering(404, "<html>none</html>"), "the API answered 404"),
    "a web page": (lambda _pool: answering(200, "<html>hi</html>"), "something other than"),
    "half an answer": (lambda _pool: answering(200, '{"decision": "pro'), "something other than"),
    "nothing": (lambda _pool: answering(200, ""), "something other than"),
}


@pytest.mark.parametrize("case", NO_ANSWER)
async def test_without_an_answer_a_build_goes_on_or_stops_as_its_owner_says(pool, case):
    door, expected = NO_ANSWER[case]
    async with door(pool) as base:
        (open_code, open_said), (code, said) = await asyncio.gather(
            run(base, RQ_TIMEOUT="1"), run(base, **CLOSED)
        )
    assert (open_code, open_said.startswith(GOES_ON + expected)) == (0, True), open_said
    assert (code, said.startswith(STOPS + expected)) == (3, True), said


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"RQ_API_TOKEN": "wrong"}, "the API answered 401: this token is not known"),
        ({"RQ_API_TOKEN": None}, "RQ_API_TOKEN is not set"),
        ({"RQ_API_URL": ""}, "RQ_API_URL is not set"),
        ({"RQ_WORKSPACE": ""}, "RQ_WORKSPACE is not set"),
        ({"RQ_TIMEOUT": "soon"}, "RQ_TIMEOUT must be whole seconds"),
        ({"RQ_WAIT": "soon"}, "RQ_WAIT must be whole seconds, not 'soon'"),
        ({"RQ_WAIT": "-1"}, "RQ_WAIT must be whole seconds"),
        ({"RQ_WAIT": "08"}, "RQ_WAIT must be whole seconds"),
        ({"RQ_WAIT": "1000000"}, "RQ_WAIT must be whole seconds"),
        ({"RQ_INCOMING_BYTES": "12MB"}, "RQ_INCOMING_BYTES must be a number"),
    ],
)
async def test_closed_stops_for_what_nobody_can_answer_at_once(api, wrong, expected):
    began = time.monotonic()
    code, said = await run(api.base, **{**CLOSED, "RQ_WAIT": "20", **wrong})
    assert (code, said.startswith(STOPS + expected)) == (3, True), said
    assert time.monotonic() - began < 10, "asking again would not help"


@pytest.mark.parametrize("value", ["close", "CLOSED", "true", "1", " "])
async def test_whoever_says_neither_open_nor_closed_is_told_so_and_nothing_is_asked(value):
    async with answered({}) as (base, asked):
        code, said = await run(base, RQ_FAIL=value)
    assert (code, asked) == (2, [])
    assert said.startswith(f"registry-quota: RQ_FAIL must be open or closed, not '{value}'")


@pytest.mark.parametrize("value", ["", "open", None])
async def test_open_is_what_is_meant_where_nothing_is_said(value):
    code, said = await run("http://127.0.0.1:9", RQ_FAIL=value)
    assert (code, said.startswith(GOES_ON)) == (0, True)


async def test_closed_changes_nothing_of_an_answer(api):
    await api.call(
        "PATCH", "/v1/workspaces/acme", {"quota_bytes": GIGABYTE, "enforcement": "strict"}
    )
    assert (await run(api.base, **CLOSED))[0] == 0
    code, said = await run(api.base, **CLOSED, RQ_INCOMING_BYTES=str(2 * GIGABYTE))
    assert (code, "deny (over_quota)" in said) == (1, True)
    await api.call("PATCH", "/v1/workspaces/acme", {"enforcement": "advisory"})
    code, said = await run(api.base, **CLOSED, RQ_INCOMING_BYTES=str(2 * GIGABYTE))
    assert (code, "proceed (over_quota)" in said) == (0, True)


async def test_an_answer_by_which_nothing_could_be_checked_is_none(pool):
    """An API that started beside a dead database knows of no workspace that is strict."""
    async with without_a_database(pool) as base:
        (open_code, open_said), (code, said) = await asyncio.gather(
            run(base, RQ_API_TOKEN=OPERATOR), run(base, **CLOSED)
        )
    assert (open_code, "proceed (check_failed)" in open_said) == (0, True), open_said
    assert code == 3, said
    assert "could not be checked" in said


@pytest.mark.parametrize("fail", ["open", "closed"])
async def test_who_waits_is_answered_when_the_api_is_back(api, fail):
    port = int(api.base.rpartition(":")[2])
    async with fault_proxy(port) as proxy:
        proxy.silence()
        base = f"http://127.0.0.1:{proxy.port}"
        asking = asyncio.create_task(run(base, RQ_FAIL=fail, RQ_WAIT="20", RQ_TIMEOUT="1"))
        await asyncio.sleep(2)
        assert not asking.done()
        proxy.heal()
        code, said = await asking
    assert (code, "registry-quota: proceed (below_threshold)" in said) == (0, True), said


@pytest.mark.parametrize("shell", SHELLS)
async def test_waiting_ends_when_it_should(shell, tmp_path):
    program, path = shell_and_path(shell, tmp_path)
    began = time.monotonic()
    code, said = await run(
        "http://127.0.0.1:9", program, PATH=path, RQ_FAIL="closed", RQ_WAIT="3", RQ_TIMEOUT="1"
    )
    took = time.monotonic() - began
    assert code == 3, said
    assert "registry-quota: asking again in 1 s: curl: (7)" in said
    assert 2 <= took < 12, took


async def test_on_github_it_is_an_error():
    code, said = await run("http://127.0.0.1:9", **CLOSED, GITHUB_ACTIONS="true")
    assert code == 3
    assert said.startswith(
        "::error title=registry-quota::registry-quota: the quota was not checked"
    )


# -- the client for Python -----------------------------------------------------------------------


async def test_the_client_waits_for_an_api_that_comes_back(api):
    port = int(api.base.rpartition(":")[2])
    async with fault_proxy(port) as proxy:
        proxy.silence()
        async with RegistryQuota(f"http://127.0.0.1:{proxy.port}", OPERATOR) as quota:
            asking = asyncio.create_task(quota.pre_build("acme", timeout_s=0.1, wait_s=30))
            await asyncio.sleep(1)
            assert not asking.done()
            proxy.heal()
            assert (await asking).decision == "proceed"


async def test_the_client_raises_what_is_so_when_its_time_is_over(pool):
    began = time.monotonic()
    async with RegistryQuota("http://127.0.0.1:9", OPERATOR) as quota:
        with pytest.raises(UnreachableError):
            await quota.pre_build("acme", wait_s=2)
    assert 1.5 < time.monotonic() - began < 12
    async with overloaded(pool) as base, RegistryQuota(base, OPERATOR) as quota:
        with pytest.raises(RefusedError) as caught:
            await quota.pre_build("acme", wait_s=1)
        assert caught.value.status == 503


async def test_the_client_does_not_ask_again_what_is_refused(api):
    async with RegistryQuota(api.base, "wrong") as quota:
        began = time.monotonic()
        with pytest.raises(RefusedError):
            await quota.pre_build("acme", wait_s=30)
        assert time.monotonic() - began < 10
