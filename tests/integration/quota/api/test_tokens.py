"""API tokens: shown once, kept as a hash, good for their scopes and workspaces alone, gone at once."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.support.live_api import INTERNAL, OPERATOR_NEXT

pytestmark = pytest.mark.promise("tenants")

PATHS = {
    "read": ("GET", "/v1/workspaces/acme/usage"),
    "hook": ("POST", "/v1/hooks/pre-build"),
    "write": ("POST", "/v1/workspaces/acme/cleanups"),
    "admin": ("PATCH", "/v1/workspaces/acme"),
}
BODIES = {"hook": {"workspace": "acme"}, "write": {}, "admin": {"quota_bytes": 10**9}}


async def set_up(api, *names):
    for name in names or ("acme",):
        assert (await api.call("PATCH", f"/v1/workspaces/{name}", {"quota_bytes": 10**9}))[0] == 200


async def knock(api, scope, token):
    method, path = PATHS[scope]
    return (await api.call(method, path, BODIES.get(scope), token=token))[0]


@pytest.mark.parametrize("scope", PATHS)
async def test_a_scope_opens_its_own_doors_and_admin_opens_all(api, scope):
    await set_up(api)
    token = await api.token(scope, workspaces=["acme"])
    for door in PATHS:
        expected = 200 if scope in {door, "admin"} else 403
        assert await knock(api, door, token) == expected, door


async def test_somebody_elses_workspace_is_not_there(api):
    await set_up(api, "acme", "other")
    token = await api.token("admin", workspaces=["other"])
    for door in PATHS:
        assert await knock(api, door, token) == 404, door


async def test_a_tenant_pages_through_its_own_workspaces_alone(api):
    names = [f"ws-{number:02}" for number in range(10)]
    await set_up(api, *names)
    token = await api.token("read", workspaces=["ws-07", "ws-01", "ws-04", "not-there"])
    seen, cursor = [], ""
    for _ in range(5):
        status, page = await api.call("GET", f"/v1/workspaces?limit=2{cursor}", token=token)
        assert status == 200
        seen.append([item["workspace"] for item in page["items"]])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [["ws-01", "ws-04"], ["ws-07"]]


async def test_a_repository_moves_only_with_rights_on_both_workspaces(api):
    await set_up(api, "acme", "other")
    path = "/v1/repositories/default/acme/api"
    for workspaces, status in ((["acme"], 404), (["other"], 404), (["acme", "other"], 200)):
        token = await api.token("admin", workspaces=workspaces)
        assert (await api.call("PUT", path, {"workspace": "other"}, token=token))[0] == status
    # What has moved is the other workspace's now: who has only the first cannot take it back.
    token = await api.token("admin", workspaces=["acme"])
    assert (await api.call("PUT", path, {"workspace": "acme"}, token=token))[0] == 404


async def test_a_revoked_token_opens_nothing_from_the_next_call_on(api):
    await set_up(api)
    token = await api.token("read", workspaces=None)
    assert await knock(api, "read", token) == 200
    token_id = token.split("_")[1]
    assert (await api.call("DELETE", f"/v1/tokens/{token_id}"))[0] == 204
    assert await knock(api, "read", token) == 401
    assert (await api.call("DELETE", f"/v1/tokens/{token_id}"))[0] == 204, "may be repeated"
    assert (await api.call("DELETE", "/v1/tokens/0123456789abcdef"))[0] == 404


async def test_a_token_ends_when_its_time_is_over(api):
    await set_up(api)
    token = await api.token("read", workspaces=None, ttl_s=3600)
    api.clock.ahead = timedelta(minutes=59)
    assert await knock(api, "read", token) == 200
    api.clock.ahead = timedelta(minutes=61)
    assert await knock(api, "read", token) == 401
    _status, page = await api.call("GET", "/v1/tokens")
    assert [item["state"] for item in page["items"]] == ["expired"]


async def test_wrong_tokens_are_all_401(api):
    await set_up(api)
    token = await api.token("read", workspaces=None)
    prefix, token_id, secret = token.split("_")
    wrong = [
        None,
        "x",
        INTERNAL,
        f"{prefix}_{token_id}_",
        f"{prefix}_{token_id}_{secret[:-1]}",
        f"{prefix}_{token_id}_{secret}0",
        f"{prefix}_{token_id[::-1]}_{secret}",
        f"{prefix}__{secret}",
        f"{prefix}_{'0' * 16}_",
        token.upper(),
        "rq_\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9_x",
    ]
    for given in wrong:
        assert await knock(api, "read", given) == 401, given
    assert await knock(api, "read", token) == 200


async def test_what_is_kept_of_a_token_opens_nothing(api):
    token = await api.token("read", workspaces=["acme"], name="ci")
    row = await api.pool.fetchrow("SELECT * FROM api_tokens")
    assert token.split("_")[2] not in str(dict(row))
    assert len(row["secret_hash"]) == 32
    _status, page = await api.call("GET", "/v1/tokens")
    (item,) = page["items"]
    assert token.split("_")[2] not in str(item)
    assert (item["name"], item["scopes"], item["workspaces"]) == ("ci", ["read"], ["acme"])


async def test_the_last_use_is_written_at_most_once_a_minute(api):
    await set_up(api)
    token = await api.token("read", workspaces=None)

    async def last_use():
        return await api.pool.fetchval("SELECT last_used_at FROM api_tokens")

    assert await last_use() is None
    await knock(api, "read", token)
    first = await last_use()
    assert abs(first - datetime.now(UTC)) < timedelta(seconds=30)
    for _ in range(5):
        await knock(api, "read", token)
    assert await last_use() == first
    api.clock.ahead = timedelta(seconds=61)
    await knock(api, "read", token)
    assert await last_use() - first >= timedelta(seconds=61)


async def test_who_has_some_workspaces_deals_with_tokens_of_those_alone(api):
    everybody = await api.token("read", workspaces=None)
    mine = await api.token("read", workspaces=["acme"])
    shared = await api.token("read", workspaces=["acme", "other"])
    tenant = await api.token("admin", workspaces=["acme"])

    _status, page = await api.call("GET", "/v1/tokens", token=tenant)
    assert {item["id"] for item in page["items"]} == {
        token.split("_")[1] for token in (mine, tenant)
    }
    for token, status in ((everybody, 404), (shared, 404), (mine, 204)):
        path = f"/v1/tokens/{token.split('_')[1]}"
        assert (await api.call("DELETE", path, token=tenant))[0] == status
    for workspaces, status in ((None, 403), (["acme", "other"], 403), (["acme"], 201)):
        body = {"scopes": ["read"], "workspaces": workspaces}
        assert (await api.call("POST", "/v1/tokens", body, token=tenant))[0] == status


async def test_tokens_are_listed_in_pages(api):
    made = {(await api.token("read", workspaces=None)).split("_")[1] for _ in range(5)}
    seen, cursor = [], ""
    while True:
        _status, page = await api.call("GET", f"/v1/tokens?limit=2{cursor}")
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == sorted(made)


async def test_two_operator_tokens_are_good_while_one_replaces_the_other(api):
    await set_up(api)
    assert await knock(api, "read", OPERATOR_NEXT) == 200


async def test_while_the_database_is_away_a_token_seen_lately_still_names_its_holder(
    api, monkeypatch
):
    token, other = [await api.token("hook", workspaces=["acme"]) for _ in range(2)]
    assert await api.tokens.authenticate(token) is not None

    def away(*_args, **_options):
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    monkeypatch.setattr(api.tokens, "_pool", type("Away", (), {"acquire": away})())
    principal = await api.tokens.authenticate(token)
    assert principal is not None
    assert principal.workspaces == {"acme"}
    assert await api.tokens.authenticate(token + "0") is None
    with pytest.raises(asyncpg.CannotConnectNowError):
        await api.tokens.authenticate(other)
    api.clock.ahead = timedelta(minutes=6)
    with pytest.raises(asyncpg.CannotConnectNowError):
        await api.tokens.authenticate(token)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "scopes"),
        ({"scopes": [], "workspaces": None}, "scopes"),
        ({"scopes": ["root"], "workspaces": None}, "scopes.0"),
        ({"scopes": ["read"]}, "workspaces"),
        ({"scopes": ["read"], "workspaces": []}, "workspaces"),
        ({"scopes": ["read"], "workspaces": [""]}, "workspaces.0"),
        ({"scopes": ["read"], "workspaces": None, "ttl_s": 0}, "ttl_s"),
        ({"scopes": ["read"], "workspaces": None, "ttl_s": 10**20}, "ttl_s"),
        ({"scopes": ["read"], "workspaces": None, "name": "a\x00"}, "name"),
    ],
)
async def test_a_token_that_makes_no_sense_is_told_by_field(api, body, field):
    status, answer = await api.call("POST", "/v1/tokens", body)
    assert status == 400
    assert field in {item["field"] for item in answer["errors"]}
