"""Reporting what is in use, over HTTP."""

import pytest

DIGEST = "sha256:" + "ab" * 32
LEASES = "/v1/workspaces/acme/leases"


async def items(api):
    status, answer = await api.call("GET", LEASES)
    assert status == 200
    return answer["items"]


async def test_a_report_replaces_what_its_source_said_before(api):
    assert await items(api) == []
    for digests in ([DIGEST, DIGEST, "sha256:" + "cd" * 32], [DIGEST], []):
        status, answer = await api.call(
            "POST", LEASES, {"source": "prod", "digests": digests, "ttl_s": 60}
        )
        assert (status, answer["digests"]) == (201, sorted(set(digests)))
        assert answer["stale"] is False
    await api.call("POST", LEASES, {"source": "test", "digests": [DIGEST]})
    assert {item["source"]: item["digests"] for item in await items(api)} == {
        "prod": [],
        "test": [DIGEST],
    }


async def test_a_source_is_retired_by_name_whatever_is_in_it(api):
    name = "clusters/prod öst %2F"
    await api.call("POST", LEASES, {"source": name, "digests": []})
    path = f"{LEASES}/clusters%2Fprod%20%C3%B6st%20%252F"
    assert (await api.call("DELETE", path))[0] == 204
    assert (await api.call("DELETE", path))[0] == 404
    assert await items(api) == []


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("source", {"digests": []}),
        ("source", {"source": "", "digests": []}),
        ("source", {"source": "a\nb", "digests": []}),
        ("digests", {"source": "prod"}),
        ("digests", {"source": "prod", "digests": DIGEST}),
        ("digests.0", {"source": "prod", "digests": ["acme/api:1.2"]}),
        ("digests.1", {"source": "prod", "digests": [DIGEST, DIGEST.upper()]}),
        ("ttl_s", {"source": "prod", "digests": [], "ttl_s": 0}),
        ("ttl_s", {"source": "prod", "digests": [], "ttl_s": "1h"}),
        ("ttl_s", {"source": "prod", "digests": [], "ttl_s": 2_592_001}),
        ("tll_s", {"source": "prod", "digests": [], "tll_s": 60}),
    ],
)
async def test_nonsense_is_told_by_field_and_nothing_is_kept(api, field, body):
    status, problem = await api.call("POST", LEASES, body)
    assert status == 400
    assert [error["field"] for error in problem["errors"]] == [field]
    assert await items(api) == []


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("build_id", {"bytes": 1}),
        ("bytes", {"build_id": "b"}),
        ("bytes", {"build_id": "b", "bytes": -1}),
        ("bytes", {"build_id": "b", "bytes": 2**63}),
        ("bytes", {"build_id": "b", "bytes": True}),
        ("app", {"build_id": "b", "bytes": 1, "app": ""}),
        ("ttl_s", {"build_id": "b", "bytes": 1, "ttl_s": 86_401}),
        ("size", {"build_id": "b", "bytes": 1, "size": 1}),
    ],
)
async def test_a_reservation_that_makes_no_sense_is_told_by_field(api, field, body):
    status, problem = await api.call("POST", "/v1/workspaces/acme/reservations", body)
    assert status == 400
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_a_reservation_is_given_back_by_its_id_or_its_build(api):
    path = "/v1/workspaces/acme/reservations"
    for given_back in ("id", "build_id"):
        status, made = await api.call("POST", path, {"build_id": "ci/4711", "bytes": 5})
        assert status == 201
        (warning,) = made.pop("warnings")
        assert warning.startswith("unknown_workspace: acme is unknown here")
        assert (await api.call("GET", path))[1]["items"] == [made]
        name = made[given_back].replace("/", "%2F")
        assert (await api.call("DELETE", f"{path}/{name}"))[0] == 204
        assert (await api.call("DELETE", f"{path}/{name}"))[0] == 404
        assert (await api.call("GET", path))[1]["items"] == []
