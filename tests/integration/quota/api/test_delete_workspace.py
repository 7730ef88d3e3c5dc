"""`DELETE /v1/workspaces/{workspace}`: an empty one goes, a full one stays, and no push is lost by it."""

import asyncio
import uuid
from datetime import UTC, datetime

import pytest

from ledger.facts import ManifestDeleted
from tests.support.ledger_images import pushed
from tests.support.live_api import live_api

PATH = "/v1/workspaces/acme"


@pytest.fixture
async def api(pool):
    async with live_api(pool) as running:
        yield running


async def push(api, tag="1.0", *, at_ns=None):
    fact = pushed("acme/api", tag, [(tag, 5000)], pushed_ns=at_ns)
    await api.recorder.record([fact], now=datetime.now(UTC))
    return fact


async def delete(api, fact, *, later_ns=1000):
    gone = ManifestDeleted(
        "default", "acme/api", fact.digest, (fact.stamp[0] + later_ns, uuid.uuid4().bytes)
    )
    await api.recorder.record([gone], now=datetime.now(UTC))


async def reserve(api):
    await api.call("POST", f"{PATH}/reservations", {"build_id": "ci-1", "bytes": 10})


async def lease(api):
    await api.call("POST", f"{PATH}/leases", {"source": "k8s", "digests": [], "ttl_s": 60})


async def clean(api):
    async with api.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes,"
            " usage_before, promised_bytes) SELECT $1, id, 'running', 'asked for', 'test', 1, 1, 1"
            " FROM workspaces WHERE name = 'acme'",
            uuid.uuid4(),
        )


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (push, "it stores 1 manifest"),
        (reserve, "1 reservation of a build"),
        (lease, "it has leases of k8s"),
        (clean, "a cleanup is running"),
    ],
)
async def test_a_workspace_that_holds_something_stays_and_says_what(api, what, reason):
    await api.call("PATCH", PATH, {"quota_bytes": 10**6, "enforcement": "strict"})
    await what(api)
    status, problem = await api.call("DELETE", PATH)
    assert status == 409
    assert reason in problem["detail"]
    assert [reason in error["message"] for error in problem["errors"]] == [True]
    status, there = await api.call("GET", PATH)
    assert (there["quota_bytes"], there["enforcement"]) == (10**6, "strict")


async def test_an_empty_one_goes_with_its_settings_and_its_history(api):
    await api.call("PATCH", PATH, {"quota_bytes": 10**6, "policy": {"keep_newest": 9}})
    fact = await push(api)
    await delete(api, fact)
    assert (await api.call("DELETE", PATH))[0] == 204
    assert (await api.call("GET", PATH))[0] == 404
    assert (await api.call("DELETE", PATH))[0] == 404
    assert (await api.call("GET", "/v1/workspaces"))[1]["items"] == []
    await push(api, "2.0")
    _status, again = await api.call("GET", PATH)
    assert again["quota_bytes"] == 10 * 1024**3
    assert again["policy"]["keep_newest"] == 3
    _status, history = await api.call("GET", f"{PATH}/history")
    assert {point["usage_bytes"] for point in history["items"]} == {6000}


async def test_what_was_deleted_before_stays_deleted_when_its_old_events_come_again(api):
    fact = await push(api)
    await delete(api, fact)
    await api.call("DELETE", PATH)
    await api.recorder.record([fact], now=datetime.now(UTC))
    async with api.pool.acquire() as connection:
        assert await connection.fetchval("SELECT usage_bytes FROM workspaces") == 0
        assert not await connection.fetchval("SELECT bool_or(present) FROM manifests")


async def test_only_an_admin_may(api):
    await api.call("PATCH", PATH, {"quota_bytes": 10**6})
    token = await api.token("read", "write", workspaces=["acme"])
    assert (await api.call("DELETE", PATH, token=token))[0] == 403
    other = await api.token("admin", workspaces=["globex"])
    assert (await api.call("DELETE", PATH, token=other))[0] in {403, 404}
    assert (await api.call("GET", PATH))[0] == 200


async def test_a_push_that_comes_meanwhile_is_never_lost(api):
    """Whichever is first: either the push is there and it stays, or it goes and comes anew with it."""
    ends = set()
    for number in range(30):
        fact = pushed("acme/api", f"{number}", [(str(number), 5000)])
        push_it = api.recorder.record([fact], now=datetime.now(UTC))
        (status, _answer), _recorded = await asyncio.gather(api.call("DELETE", PATH), push_it)
        ends.add(status)
        _status, usage = await api.call("GET", f"{PATH}/usage")
        assert (usage["usage_bytes"], usage["images"]) == (6000, 1), number
        await delete(api, fact)
    assert ends <= {204, 404, 409}
    # A recorder that knows the repository from before finds the same place.
    await api.call("DELETE", PATH)
    await push(api, "last")
    assert (await api.call("GET", f"{PATH}/usage"))[1]["usage_bytes"] == 6000
