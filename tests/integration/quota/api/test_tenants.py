"""A tenant with every scope on its own workspace tries to reach another's, by ids that are not its own."""

import pytest
from structlog.testing import capture_logs

from tests.integration.quota.api.test_internal import digest, pushed
from tests.support.live_api import INTERNAL, OPERATOR

MINE, THEIRS = "/v1/workspaces/mallory", "/v1/workspaces/acme"


@pytest.fixture
async def mallory(api) -> str:
    """Her token; acme has an image, a reservation, a lease, a plan, a record and a token of its own."""
    for name in ("acme", "mallory"):
        await pushed(api, f"{name}/api", "1.0", 1, 1000)
        status, _ = await api.call("PATCH", f"/v1/workspaces/{name}", {"quota_bytes": 10**6})
        assert status == 200
    return str(await api.token("read", "hook", "write", "admin", workspaces=["mallory"]))


async def test_ids_of_another_workspace_open_nothing_by_a_path_of_ones_own(api, mallory):
    _, plan = await api.call("POST", f"{THEIRS}/cleanup-plans", {})
    _, reserved = await api.call("POST", f"{THEIRS}/reservations", {"build_id": "ci-1", "bytes": 5})
    _, _lease = await api.call(
        "POST", f"{THEIRS}/leases", {"source": "k8s", "digests": [digest(1)]}
    )
    _, run = await api.call("POST", f"{THEIRS}/cleanups", {})
    for method, path, body in (
        ("GET", f"{MINE}/cleanup-plans/{plan['id']}", None),
        ("POST", f"{MINE}/cleanups", {"plan": plan["id"]}),
        ("GET", f"{MINE}/cleanups/{run['run_id'] or plan['id']}", None),
        ("POST", f"{MINE}/restores", {"run": run["run_id"] or plan["id"]}),
        ("POST", f"{MINE}/restores", {"image": "acme/api:1.0"}),
        ("DELETE", f"{MINE}/reservations/{reserved['id']}", None),
        ("DELETE", f"{MINE}/reservations/ci-1", None),
        ("DELETE", f"{MINE}/leases/k8s", None),
    ):
        status, answer = await api.call(method, path, body, token=mallory)
        assert status == 404, (path, answer)
    _, left = await api.call("GET", f"{THEIRS}/reservations")
    assert [item["build_id"] for item in left["items"]] == ["ci-1"]
    _, left = await api.call("GET", f"{THEIRS}/leases")
    assert [item["source"] for item in left["items"]] == ["k8s"]


async def test_a_record_of_another_workspace_is_neither_seen_changed_nor_removed(api, mallory):
    (theirs,) = (
        await api.call("GET", "/api/internal/workspaces/acme/registry-images", token=INTERNAL)
    )[1]
    status, _ = await api.call(
        "DELETE", f"/api/internal/registry-images/{theirs['id']}", token=mallory
    )
    assert status == 404
    record = {"workspace": "acme", "app": "api", "tag": "1.0", "digest": digest(9), "sizeBytes": 1}
    for wanted in (
        record,
        record | {"workspace": "mallory/../acme"},
        record | {"workspace": "mallory", "app": "../acme/api"},
    ):
        status, _ = await api.call("POST", "/api/internal/registry-images", wanted, token=mallory)
        assert status in (400, 404), wanted
    after = await api.call("GET", "/api/internal/workspaces/acme/registry-images", token=INTERNAL)
    assert after[1] == [theirs]


async def test_a_repository_is_neither_taken_nor_pushed_upon_another_nor_told_of(api, mallory):
    for repository, workspace in (
        ("acme/api", "mallory"),
        ("acme/never-pushed", "mallory"),
        ("mallory/api", "acme"),
        ("no-slash", "mallory"),
    ):
        status, _ = await api.call(
            "PUT", f"/v1/repositories/default/{repository}", {"workspace": workspace}, token=mallory
        )
        assert status == 404, repository
    # One that an operator gave away, to a workspace whose name is nobody's business.
    await api.call("PUT", "/v1/repositories/default/mallory/x", {"workspace": "secret-project"})
    for method, path, body in (
        ("PUT", "/v1/repositories/default/mallory/x", {"workspace": "mallory"}),
        (
            "POST",
            "/api/internal/registry-images",
            {"workspace": "mallory", "app": "x", "tag": "1", "digest": digest(2), "sizeBytes": 1},
        ),
    ):
        status, answer = await api.call(method, path, body, token=mallory)
        assert status in (404, 409)
        assert "secret-project" not in str(answer)


async def test_no_token_grows_beyond_its_workspaces(api, mallory):
    theirs = await api.token("read", workspaces=["acme"])
    everywhere = await api.token("read", workspaces=None)
    both = await api.token("read", workspaces=["mallory", "acme"])
    for workspaces in (["acme"], ["mallory", "acme"], None, ["*"], ["mallory "], ["MALLORY"]):
        status, _ = await api.call(
            "POST", "/v1/tokens", {"scopes": ["read"], "workspaces": workspaces}, token=mallory
        )
        assert status == 403, workspaces
    for token in (theirs, everywhere, both):
        status, _ = await api.call("DELETE", f"/v1/tokens/{token.split('_')[1]}", token=mallory)
        assert status == 404
        assert (await api.call("GET", "/v1/workspaces", token=token))[0] == 200
    _, listed = await api.call("GET", "/v1/tokens", token=mallory)
    assert {tuple(item["workspaces"]) for item in listed["items"]} == {("mallory",)}


async def test_names_that_look_alike_are_other_workspaces(api, mallory):
    for name in (
        "ACME",
        "acme%20",
        "%61cme/",
        "mallory%2F..%2Facme",
        "acme%E2%80%8B",
        "mallory/../acme",
    ):
        status, _response, _raw = await api.raw(
            "GET", f"/v1/workspaces/{name}/usage", token=mallory
        )
        assert status == 404, name


async def test_lists_and_pages_begin_and_end_with_ones_own(api, mallory):
    for number in range(2, 6):
        await pushed(api, "acme/api", f"{number}", number, 1000)
    _, theirs = await api.call("GET", f"{THEIRS}/images?limit=1")
    for cursor in ("", f"?cursor={theirs['next_cursor']}"):
        _, mine = await api.call("GET", f"{MINE}/images{cursor}", token=mallory)
        assert {item["repository"] for item in mine["items"]} <= {"mallory/api"}
    for path in ("/v1/workspaces?cursor=a", "/v1/workspaces?cursor=", f"{MINE}/events?cursor=0"):
        _, listed = await api.call("GET", path, token=mallory)
        assert "acme" not in str(listed), path
    for path in ("/v1/status", "/v1/gc/verifications"):
        status, answer = await api.call("GET", path, token=mallory)
        assert status == 403
        assert "acme" not in str(answer)


async def test_what_another_workspace_holds_is_not_told_by_what_a_build_costs(api, mallory):
    await pushed(api, "acme/only", "1", 77, 5000)
    held = "sha256:" + (bytes([77]) * 32).hex()
    costs = []
    for layer in (held, digest(123_456)):
        body = {"workspace": "mallory", "layers": [{"digest": layer, "size": 700}], "dry_run": True}
        _, answer = await api.call("POST", "/v1/hooks/pre-build", body, token=mallory)
        costs.append(answer["incoming_bytes"])
    assert costs == [700, 700]


async def test_headers_of_a_proxy_are_believed_by_no_door(api):
    for token in (None, "rq_0000000000000000_" + "0" * 64):
        status, _response, _raw = await api.raw(
            "GET",
            f"{THEIRS}/usage",
            token=token,
            headers={
                "X-Forwarded-User": "operator",
                "X-Forwarded-For": "127.0.0.1",
                "X-Original-URL": "/healthz",
                "X-HTTP-Method-Override": "OPTIONS",
                "Cookie": f"rq_session={OPERATOR}",
            },
        )
        assert status == 401


async def test_who_changes_something_is_in_the_log_and_who_is_not_let_in_is_counted(api, mallory):
    with capture_logs() as lines:
        await api.call("POST", f"{MINE}/reservations", {"build_id": "b", "bytes": 1}, token=mallory)
        await api.call("GET", f"{MINE}/usage", token=mallory)
    (line,) = [line for line in lines if line["event"] == "call"]
    assert line["by"] == f"token {mallory.split('_')[1]}"
    assert (line["method"], line["status"]) == ("POST", 201)
    assert (line["path"], line["address"]) == (f"{MINE}/reservations", "127.0.0.1")
    assert mallory not in str(lines)
    await api.call("GET", "/v1/status", token=mallory)
    await api.call("GET", "/v1/status", token="wrong")
    _status, _response, told = await api.raw("GET", "/metrics", token=None)
    for why in ("denied", "unauthenticated"):
        series = f'registry_quota_api_refusals_total{{door="http",why="{why}"}} 1.0'
        assert series in told.decode()
