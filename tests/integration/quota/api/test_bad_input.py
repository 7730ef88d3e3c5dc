"""Bad input at every HTTP door of the API: the documented answer, the field by name, nothing >= 500."""

import re

import pytest

from quota.api.openapi import endpoints
from tests.support.live_api import INTERNAL

HUGE = 2**63
DIGEST = f"sha256:{'a' * 64}"
HOOK = ("POST", "/v1/hooks/pre-build")
PATCH = ("PATCH", "/v1/workspaces/acme")
PUT = ("PUT", "/v1/workspaces/acme")
RESERVE = ("POST", "/v1/workspaces/acme/reservations")
CLEAN = ("POST", "/v1/workspaces/acme/cleanups")
MAP = ("PUT", "/v1/repositories/default/acme/api")
TOKEN = ("POST", "/v1/tokens")
LEASE = ("POST", "/v1/workspaces/acme/leases")
RECORD = ("POST", "/api/internal/registry-images")


def record(**changes):
    return {
        "workspace": "acme",
        "app": "api",
        "tag": "1",
        "digest": DIGEST,
        "sizeBytes": 1,
    } | changes


TABLE = [
    # door, body, status, field
    (HOOK, {}, 400, "workspace"),
    (HOOK, {"workspace": ""}, 400, "workspace"),
    (HOOK, {"workspace": 7}, 400, "workspace"),
    (HOOK, {"workspace": None}, 400, "workspace"),
    (HOOK, {"workspace": "a\x00b"}, 400, "workspace"),
    (HOOK, {"workspace": "a" * 256}, 400, "workspace"),
    (HOOK, {"workspace": "acme", "app": ""}, 400, "app"),
    (HOOK, {"workspace": "acme", "incoming_bytes": -1}, 400, "incoming_bytes"),
    (HOOK, {"workspace": "acme", "incoming_bytes": HUGE}, 400, "incoming_bytes"),
    (HOOK, {"workspace": "acme", "incoming_bytes": 10**30}, 400, "incoming_bytes"),
    (HOOK, {"workspace": "acme", "incoming_bytes": "1"}, 400, "incoming_bytes"),
    (HOOK, {"workspace": "acme", "incoming_bytes": 1.5}, 400, "incoming_bytes"),
    (HOOK, {"workspace": "acme", "layers": {}}, 400, "layers"),
    (HOOK, {"workspace": "acme", "layers": [{"digest": "x", "size": 1}]}, 400, "layers.0.digest"),
    (HOOK, {"workspace": "acme", "layers": [{"digest": DIGEST}]}, 400, "layers.0.size"),
    (HOOK, {"workspace": "acme", "dry_run": "yes"}, 400, "dry_run"),
    (HOOK, {"workspace": "acme", "timeout_s": 0}, 400, "timeout_s"),
    (HOOK, {"workspace": "acme", "timeout_s": -5}, 400, "timeout_s"),
    (HOOK, {"workspace": "acme", "timeout_s": 601}, 400, "timeout_s"),
    (HOOK, {"workspace": "acme", "timeout_s": "soon"}, 400, "timeout_s"),
    (PATCH, {"quota_bytes": 0}, 422, "quota_bytes"),
    (PATCH, {"quota_bytes": -1}, 422, "quota_bytes"),
    (PATCH, {"quota_bytes": HUGE}, 400, "quota_bytes"),
    (PATCH, {"quota_bytes": "10GB"}, 400, "quota_bytes"),
    (PATCH, {"quota": 1}, 400, "quota"),
    (PATCH, {"enforcement": "harsh"}, 400, "enforcement"),
    (PATCH, {"policy": []}, 400, "policy"),
    (PATCH, {"policy": {"keep": 3}}, 422, "policy.keep"),
    (PATCH, {"policy": {"target": 0.9}}, 422, "policy.target"),
    (PATCH, {"policy": {"min_age": HUGE}}, 422, "policy.min_age"),
    (PATCH, {"policy": {"keep_tags": ["v*", "v*,prod"]}}, 422, "policy.keep_tags.1"),
    (PATCH, {"policy": {"keep_tags": ["^v.*$"]}}, 422, "policy.keep_tags.0"),
    (PUT, {"quota_bytes": 1, "policy": {"keep_tags": ["api:v*"]}}, 422, "policy.keep_tags.0"),
    (PUT, {}, 400, "quota_bytes"),
    (PUT, {"quota_bytes": None}, 400, "quota_bytes"),
    (RESERVE, {}, 400, "build_id"),
    (RESERVE, {"build_id": "", "bytes": 1}, 400, "build_id"),
    (RESERVE, {"build_id": "b", "bytes": HUGE}, 400, "bytes"),
    (RESERVE, {"build_id": "b", "bytes": 1, "ttl_s": 0}, 400, "ttl_s"),
    (RESERVE, {"build_id": "b\x00", "bytes": 1}, 400, "build_id"),
    (CLEAN, {"timeout_s": "1"}, 400, "timeout_s"),
    (CLEAN, {"timeout_s": HUGE}, 400, "timeout_s"),
    (MAP, {}, 400, "workspace"),
    (MAP, {"workspace": "a\x00"}, 400, "workspace"),
    (TOKEN, {"scopes": ["all"], "workspaces": None}, 400, "scopes.0"),
    (TOKEN, {"scopes": ["read"], "workspaces": None, "ttl_s": HUGE}, 400, "ttl_s"),
    (LEASE, {}, 400, "source"),
    (LEASE, {"source": "k8s", "digests": ["latest"]}, 400, "digests.0"),
    (LEASE, {"source": "k8s", "digests": [], "ttl_s": HUGE}, 400, "ttl_s"),
    (RECORD, {}, 400, "workspace"),
    (RECORD, record(workspace=""), 400, "workspace"),
    (RECORD, record(workspace="Acme Inc"), 400, "workspace"),
    (RECORD, record(app="My App"), 400, "app"),
    (RECORD, record(app="../x"), 400, "app"),
    (RECORD, record(app=None), 400, "app"),
    (RECORD, record(tag=""), 400, "tag"),
    (RECORD, record(tag="a b"), 400, "tag"),
    (RECORD, record(tag="a\n"), 400, "tag"),
    (RECORD, record(tag="t" * 129), 400, "tag"),
    (RECORD, record(digest="sha256:abc"), 400, "digest"),
    (RECORD, record(digest=DIGEST.upper()), 400, "digest"),
    (RECORD, record(sizeBytes=-1), 400, "sizeBytes"),
    (RECORD, record(sizeBytes=HUGE), 400, "sizeBytes"),
    (RECORD, record(sizeBytes=2**42 + 1), 400, "sizeBytes"),
    (RECORD, record(sizeBytes="12"), 400, "sizeBytes"),
    (RECORD, record(sizeBytes=True), 400, "sizeBytes"),
]

NOT_FOUND = [
    ("GET", "/v1/workspaces/nobody"),
    ("GET", "/v1/workspaces/nobody/usage"),
    ("GET", "/v1/workspaces/nobody/images"),
    ("GET", "/v1/workspaces/nobody/events"),
    ("GET", "/v1/workspaces/nobody/history"),
    ("GET", "/v1/workspaces/nobody/cleanups"),
    ("POST", "/v1/workspaces/nobody/cleanup-plans"),
    ("GET", "/v1/workspaces/acme/cleanups/not-an-id"),
    ("GET", "/v1/workspaces/%00"),
    ("GET", "/v1/workspaces/a%2f..%2fb/usage"),
    ("GET", "/v1/workspaces/%ff%fe/usage"),
    ("GET", f"/v1/workspaces/{'a' * 300}/usage"),
    ("PUT", "/v1/repositories/default/UPPER%20CASE"),
    ("PUT", "/v1/repositories/No%20Registry/acme/api"),
    ("DELETE", "/v1/tokens/%00"),
    ("GET", "/api/internal/workspaces/%00/registry-usage"),
    ("GET", "/api/internal/workspaces/nobody/registry-images"),
    ("DELETE", "/api/internal/registry-images/%00"),
    ("DELETE", "/api/internal/registry-images/99999999999999999999.a"),
    ("DELETE", "/api/internal/registry-images/999999999.a"),
    ("DELETE", "/api/internal/registry-images/1."),
    ("DELETE", "/api/internal/registry-images/nothing"),
    ("GET", "/nothing/here"),
]

QUERIES = [
    ("/v1/workspaces?limit=0", "limit"),
    ("/v1/workspaces?limit=1001", "limit"),
    ("/v1/workspaces?limit=many", "limit"),
    (f"/v1/workspaces?limit={HUGE}", "limit"),
    ("/v1/workspaces?limit=", "limit"),
    ("/v1/workspaces?cursor=%00", "cursor"),
    ("/v1/workspaces/acme/images?cursor=nonsense", "cursor"),
    ("/v1/workspaces/acme/images?app=%00", "app"),
    ("/v1/workspaces/acme/images?tag=" + "t" * 300, "tag"),
    (f"/v1/workspaces/acme/events?cursor={HUGE}", "cursor"),
    ("/v1/workspaces/acme/events?cursor=-1", "cursor"),
    ("/v1/workspaces/acme/history?step=0", "step"),
    ("/v1/workspaces/acme/history?from=yesterday", "from"),
    ("/v1/tokens?limit=-1", "limit"),
]

BODIES = [b"", b"nonsense", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":']


async def set_up(api):
    assert (await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**9}))[0] == 200


async def test_a_wrong_body_is_told_by_field(api):
    await set_up(api)
    for (method, path), body, status, field in TABLE:
        token = {"token": INTERNAL} if path.startswith("/api/") else {}
        answered, answer = await api.call(method, path, body, **token)
        assert answered == status, (method, path, body, answer)
        assert field in {item["field"] for item in answer["errors"]}, (path, body, answer)


async def test_what_is_not_there_is_404(api):
    await set_up(api)
    for method, path in NOT_FOUND:
        body = {"workspace": "acme"} if method == "PUT" else None
        token = {"token": INTERNAL} if path.startswith("/api/") else {}
        status, answer = await api.call(method, path, body, **token)
        assert (status, answer.get("status")) == (404, 404), (method, path, status, answer)


async def test_a_wrong_query_is_told_by_parameter(api):
    await set_up(api)
    for path, field in QUERIES:
        status, answer = await api.call("GET", path)
        assert status == 400, (path, answer)
        assert [item["field"] for item in answer["errors"]] == [field], path


async def test_a_body_that_is_no_json_object_is_400(api):
    await set_up(api)
    for door in (HOOK, PUT, RESERVE, MAP, TOKEN, LEASE, RECORD):
        for body in BODIES:
            status, _answer, raw = await api.raw(*door, data=body)
            assert status == 400, (door, body[:20], raw)


def address(path):
    """A path with something in the place of every name."""
    names = {"workspace": "acme", "registry": "default", "repository": "acme/api"}
    return re.sub(r"{(\w+)}", lambda match: names.get(match[1], "acme"), path)


def guarded(api):
    """Every endpoint that needs a token, pages for people apart."""
    return [
        endpoint
        for endpoint in endpoints(api.app)
        if endpoint.description is not None
        and endpoint.description.scope is not None
        and endpoint.path.startswith(("/v1/", "/api/"))
    ]


async def test_every_endpoint_asks_for_a_token_with_the_scope_that_it_names(api):
    await set_up(api)
    tokens = {scope: await api.token(scope, workspaces=None) for scope in ("read", "hook", "write")}
    assert len(guarded(api)) > 20
    for endpoint in guarded(api):
        path = address(endpoint.path)
        for nothing in (None, "x", "rq_0123456789abcdef_x"):
            assert (await api.raw(endpoint.method, path, token=nothing))[0] == 401, endpoint
        for scope, token in tokens.items():
            status, _answer, raw = await api.raw(endpoint.method, path, token=token, data=b"{}")
            assert status < 500, (endpoint, raw)
            refused = status == 403 and b"lacks the scope" in raw
            assert refused == (scope != endpoint.description.scope), (endpoint, scope, status)


async def test_somebody_elses_workspace_is_404_at_every_door(api):
    await set_up(api)
    stranger = await api.token("admin", workspaces=["other"])
    for endpoint in guarded(api):
        if "{workspace}" not in endpoint.path and "workspaces/{id}" not in endpoint.path:
            continue
        path = address(endpoint.path)
        status, _answer, raw = await api.raw(endpoint.method, path, token=stranger, data=b"{}")
        assert status == 404, (endpoint, status, raw)
    for door, body in ((HOOK, {"workspace": "acme"}), (RECORD, record())):
        assert (await api.call(*door, body, token=stranger))[0] == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE"])
async def test_another_method_is_405_and_says_which_there_are(api, method):
    status, answer, _raw = await api.raw(method, "/v1/workspaces")
    assert status == 405
    assert "GET" in answer.headers["Allow"]
