"""What one caller may keep, ask for and send: each has a bound, and nobody else waits for it."""

import asyncio
import hashlib
import random
import threading
import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ledger import leases
from ledger import plans as ledger_plans
from ledger import tokens as ledger_tokens
from ledger import workspaces as ledger_workspaces
from quota import accounts as accounts_module
from quota import builds, looking
from quota import leases as lease_module
from quota.api.requests import LeaseRequest
from registry import manifests
from registry.answers import FetchedManifest
from registry.media_types import OCI_MANIFEST
from tests.support.live_api import live_api

LEASES = "/v1/workspaces/acme/leases"
RESERVATIONS = "/v1/workspaces/acme/reservations"
QUOTA = 1_000_000


def digests(count, seed=""):
    return [
        f"sha256:{hashlib.sha256(f'{seed}/{number}'.encode()).hexdigest()}"
        for number in range(count)
    ]


async def in_use(api):
    return await api.pool.fetchval(
        "SELECT coalesce(sum(jsonb_array_length(digests)), 0) FROM leases"
    )


async def everything(api, path, limit):
    """All items of a list, page by page."""
    found, more, pages = [], "", 0
    while True:
        pages += 1
        status, page = await api.call("GET", f"{path}?limit={limit}{more}")
        assert status == 200, page
        assert len(page["items"]) <= limit
        found += page["items"]
        if page["next_cursor"] is None:
            return found, pages
        more = f"&cursor={page['next_cursor']}"


# -- leases --------------------------------------------------------------------------------------


async def test_digests_in_use_are_bounded_over_all_sources_of_a_workspace(pool):
    async with live_api(pool, lease_digests=1000) as api:
        chance = random.Random(1)
        bodies = [
            {
                "source": f"cluster-{chance.randrange(12)}",
                "digests": digests(chance.randrange(400), str(number)),
            }
            for number in range(120)
        ]
        refused = 0
        for start in range(0, len(bodies), 8):
            answers = await asyncio.gather(
                *(api.call("POST", LEASES, body) for body in bodies[start : start + 8])
            )
            assert await in_use(api) <= 1000
            for status, answer in answers:
                assert status in (201, 409), answer
                if status == 409:
                    refused += 1
                    (error,) = answer["errors"]
                    assert error["field"] == "digests"
                    assert "1000" in error["message"]
                    assert "RQ_LEASE_DIGESTS" in error["message"]
        assert refused > 10
        assert await in_use(api) > 500


async def test_a_report_that_is_refused_leaves_what_its_source_said_before(pool):
    async with live_api(pool, lease_digests=1000) as api:
        for source in ("a", "b"):
            body = {"source": source, "digests": digests(500, source)}
            assert (await api.call("POST", LEASES, body))[0] == 201
        status, problem = await api.call(
            "POST", LEASES, {"source": "a", "digests": digests(501, "more")}
        )
        assert (status, problem["title"]) == (409, "Conflict")
        assert "501 of them and 500 that other sources" in problem["detail"]
        items, _pages = await everything(api, LEASES, 100)
        assert {item["source"]: set(item["digests"]) for item in items} == {
            source: set(digests(500, source)) for source in ("a", "b")
        }


async def test_a_source_that_names_no_more_than_before_is_always_taken(pool):
    """The bound was lowered meanwhile: nobody goes stale for it, and it comes down with each report."""
    async with live_api(pool) as api:
        for source in ("a", "b", "c"):
            body = {"source": source, "digests": digests(900, source)}
            assert (await api.call("POST", LEASES, body))[0] == 201
    async with live_api(pool, lease_digests=1000) as api:
        for source, count, taken in (
            ("a", 900, 201),
            ("a", 901, 409),
            ("b", 5, 201),
            ("d", 1, 409),
        ):
            body = {"source": source, "digests": digests(count, "new")}
            assert (await api.call("POST", LEASES, body))[0] == taken, (source, count)


async def test_sources_are_bounded_too(api, monkeypatch):
    monkeypatch.setattr(lease_module, "MOST_SOURCES", 5)
    for number in range(5):
        body = {"source": f"cluster-{number}", "digests": []}
        assert (await api.call("POST", LEASES, body))[0] == 201
    status, problem = await api.call("POST", LEASES, {"source": "one-more", "digests": []})
    assert status == 409
    assert "acme has 5 sources already, and may have 5" in problem["detail"]
    assert (await api.call("POST", LEASES, {"source": "cluster-0", "digests": []}))[0] == 201
    await api.call("DELETE", f"{LEASES}/cluster-0")
    assert (await api.call("POST", LEASES, {"source": "one-more", "digests": []}))[0] == 201


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_sources_come_in_pages_each_once_whole_and_in_order(api, monkeypatch, limit):
    monkeypatch.setattr(leases, "_PAGE_DIGESTS", 50)
    names = [f"cluster-{number:02}-ö" for number in range(11)]
    for number, name in enumerate(names):
        body = {"source": name, "digests": digests(number * 9, name)}
        assert (await api.call("POST", LEASES, body))[0] == 201
    found, pages = await everything(api, LEASES, limit)
    assert [item["source"] for item in found] == names
    assert [len(item["digests"]) for item in found] == [number * 9 for number in range(11)]
    assert pages > 3, "a page ends early where its sources name much"


# -- reservations --------------------------------------------------------------------------------


async def reserved(api):
    return await api.pool.fetchval("SELECT coalesce(sum(bytes), 0) FROM reservations")


@pytest.mark.parametrize("enforcement", ["advisory", "strict"])
async def test_never_more_than_the_quota_is_set_aside_whoever_asks(api, enforcement):
    await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": QUOTA, "enforcement": enforcement})
    chance = random.Random(2)

    async def by_hand(build, size):
        return await api.call("POST", RESERVATIONS, {"build_id": build, "bytes": size})

    async def by_hook(build, size):
        body = {"workspace": "acme", "build_id": build, "incoming_bytes": size}
        return await api.call("POST", "/v1/hooks/pre-build", body)

    for _round in range(15):
        asked = [
            chance.choice((by_hand, by_hook))(
                f"ci-{chance.randrange(9)}",
                chance.choice((0, QUOTA // 7, QUOTA // 2, QUOTA, QUOTA + 1, 2**62)),
            )
            for _number in range(6)
        ]
        for status, answer in await asyncio.gather(*asked):
            assert status in (200, 201, 409), answer
        assert await reserved(api) <= QUOTA
        if chance.random() < 0.4:
            await api.call("DELETE", f"{RESERVATIONS}/ci-{chance.randrange(9)}")


async def test_a_reservation_beyond_the_quota_is_refused_with_the_numbers(api):
    await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": QUOTA})
    token = await api.token("hook", workspaces=["acme"])
    body = {"build_id": "b", "bytes": 2**62}
    status, problem = await api.call("POST", RESERVATIONS, body, token=token)
    assert status == 409
    assert problem["errors"][0]["field"] == "bytes"
    assert f"{2**62} and 0 that are reserved" in problem["detail"]
    assert f"its quota of {QUOTA}" in problem["detail"]
    for build, size, taken in (("a", 600_000, 201), ("b", 400_001, 409), ("a", QUOTA, 201)):
        given = {"build_id": build, "bytes": size}
        assert (await api.call("POST", RESERVATIONS, given, token=token))[0] == taken, build
    assert await reserved(api) == QUOTA


async def test_a_build_whose_bytes_cannot_be_set_aside_goes_on_and_hears_of_it(api):
    await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": QUOTA})
    await api.call("POST", RESERVATIONS, {"build_id": "first", "bytes": QUOTA})
    body = {"workspace": "acme", "build_id": "second", "incoming_bytes": 1}
    status, answer = await api.call("POST", "/v1/hooks/pre-build", body)
    assert (status, answer["decision"], answer["reservation"]) == (200, "proceed", None)
    assert "not_reserved" in answer["warnings"]
    body["build_id"] = "first"
    _status, answer = await api.call("POST", "/v1/hooks/pre-build", body)
    assert answer["reservation"]["bytes"] == 1, "its own makes room for it"


async def test_so_many_builds_may_have_bytes_set_aside_and_no_more(api, monkeypatch):
    for module in (accounts_module, builds):
        monkeypatch.setattr(module, "MOST_OPEN", 3)
    await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": QUOTA})
    for number in range(3):
        body = {"build_id": f"ci-{number}", "bytes": 0}
        assert (await api.call("POST", RESERVATIONS, body))[0] == 201
    status, problem = await api.call("POST", RESERVATIONS, {"build_id": "ci-3", "bytes": 0})
    assert status == 409
    assert "3 builds of acme have bytes set aside, and 3 may" in problem["detail"]
    hook = {"workspace": "acme", "build_id": "ci-3", "incoming_bytes": 0}
    _status, answer = await api.call("POST", "/v1/hooks/pre-build", hook)
    assert (answer["decision"], answer["reservation"]) == ("proceed", None)
    assert (await api.call("POST", RESERVATIONS, {"build_id": "ci-1", "bytes": 5}))[0] == 201


@pytest.mark.parametrize("limit", [1, 4, 1000])
async def test_reservations_come_in_pages_though_some_are_given_back_meanwhile(api, limit):
    for number in range(9):
        await api.call("POST", RESERVATIONS, {"build_id": f"ci-{number}", "bytes": number})
    found, _pages = await everything(api, RESERVATIONS, limit)
    assert [item["build_id"] for item in found] == [f"ci-{number}" for number in range(9)]
    _status, page = await api.call("GET", f"{RESERVATIONS}?limit=2")
    if limit == 1:
        await api.call("DELETE", f"{RESERVATIONS}/{page['items'][-1]['id']}")
    path = f"{RESERVATIONS}?limit=2&cursor={page['next_cursor']}"
    _status, page = await api.call("GET", path)
    assert [item["build_id"] for item in page["items"]] == ["ci-2", "ci-3"]


@pytest.mark.parametrize("cursor", ["x", "2026_x", "2026-01-01T00:00:00_x", "9999-99-99_"])
async def test_a_cursor_that_no_page_gave_is_told(api, cursor):
    status, problem = await api.call("GET", f"{RESERVATIONS}?cursor={cursor}")
    assert status == 400
    assert problem["errors"][0]["field"] == "cursor"


# -- plans ---------------------------------------------------------------------------------------


async def kept(api, plans):
    """Which of these (workspace, id) can still be looked at."""
    answers = [
        await api.call("GET", f"/v1/workspaces/{name}/cleanup-plans/{plan}") for name, plan in plans
    ]
    return [status == 200 for status, _document in answers]


async def plan(api, name, token):
    path = f"/v1/workspaces/{name}/cleanup-plans"
    status, document = await api.call("POST", path, {}, token=token)
    assert status == 200, document
    return name, document["id"]


async def test_of_each_caller_the_newest_plans_are_kept_and_one_pushes_out_nobody_elses(
    api, monkeypatch
):
    monkeypatch.setattr(ledger_plans, "MOST_OF_A_CALLER_HERE", 3)
    monkeypatch.setattr(ledger_plans, "MOST_OF_A_CALLER", 5)
    names = ["acme", "other", "third"]
    for name in names:
        await api.call("PUT", f"/v1/workspaces/{name}", {"quota_bytes": QUOTA})
    one, another = [await api.token("read", workspaces=names) for _number in range(2)]
    shown = await plan(api, "acme", another)
    in_acme = [await plan(api, "acme", one) for _number in range(5)]
    assert await kept(api, in_acme) == [False, False, True, True, True]
    elsewhere = [await plan(api, name, one) for name in ("other", "other", "third", "third")]
    assert await kept(api, [*in_acme[2:], *elsewhere]) == [False, False, True, *([True] * 4)]
    assert await kept(api, [shown]) == [True]
    await asyncio.gather(*(plan(api, names[number % 3], one) for number in range(12)))
    by_caller = await api.pool.fetch("SELECT made_by, count(*) FROM cleanup_plans GROUP BY 1")
    assert sorted(count for _name, count in by_caller) == [1, 5]


# -- names and tokens ----------------------------------------------------------------------------


async def test_names_that_nobody_has_pushed_to_are_bounded_and_a_build_goes_on_all_the_same(
    api, monkeypatch
):
    for module in (ledger_workspaces, accounts_module, lease_module):
        monkeypatch.setattr(module, "MOST_UNSEEN", 3)
    for number in range(9):
        body = {"workspace": f"made-up-{number}", "build_id": "b", "incoming_bytes": 1}
        status, answer = await api.call("POST", "/v1/hooks/pre-build", body)
        assert (status, answer["decision"]) == (200, "proceed")
        assert (answer["reservation"] is None) == ("not_reserved" in answer["warnings"])
        assert (answer["reservation"] is None) == (number >= 3)
    for path, given in (
        ("leases", {"source": "prod", "digests": []}),
        ("reservations", {"build_id": "b", "bytes": 1}),
    ):
        status, problem = await api.call("POST", f"/v1/workspaces/one-more/{path}", given)
        assert (status, problem["errors"][0]["field"]) == (409, "workspace")
        assert (await api.call("POST", f"/v1/workspaces/made-up-0/{path}", given))[0] == 201
    assert await api.pool.fetchval("SELECT count(*) FROM workspaces") == 3
    # Who sets it makes it known; and a push is never a matter of this.
    assert (await api.call("PUT", "/v1/workspaces/one-more", {"quota_bytes": 9}))[0] == 200
    status, _answer = await api.call(
        "POST", "/v1/workspaces/one-more/reservations", {"build_id": "b", "bytes": 1}
    )
    assert status == 201


async def test_one_caller_makes_so_many_tokens_and_another_ones_are_not_counted(api, monkeypatch):
    monkeypatch.setattr(ledger_tokens, "MOST_OF_A_MAKER", 3)
    makers = [await api.token("admin", workspaces=["acme"]) for _number in range(2)]
    body = {"scopes": ["read"], "workspaces": ["acme"]}
    for maker in makers:
        made = [await api.call("POST", "/v1/tokens", body, token=maker) for _number in range(4)]
        assert [status for status, _answer in made] == [201, 201, 201, 409]
        assert "has made 3 tokens" in made[-1][1]["detail"]
    first = made[0][1]["id"]
    await api.call("DELETE", f"/v1/tokens/{first}")
    assert (await api.call("POST", "/v1/tokens", body, token=makers[1]))[0] == 409, "within a day"
    api.clock.ahead = timedelta(days=2)
    assert (await api.call("POST", "/v1/tokens", body, token=makers[1]))[0] == 201


async def test_a_token_for_a_thousand_names_is_warned_of_the_first_and_of_how_many_more(api):
    """Near ones were looked for beside every single name, with a connection in hand."""
    names = [f"made-up-{number}" for number in range(999)]
    await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": QUOTA})
    began = time.monotonic()
    body = {"scopes": ["read"], "workspaces": [*names, "acme"]}
    status, answer = await api.call("POST", "/v1/tokens", body)
    assert status == 201
    assert time.monotonic() - began < 5
    *single, rest = answer["warnings"]
    assert [warning.split()[1] for warning in single] == names[:10]
    assert rest == "unknown_workspace: 989 more names are unknown here, too"


# -- large inputs --------------------------------------------------------------------------------


async def test_large_bodies_are_read_beside_the_event_loop_and_small_ones_at_once(api, monkeypatch):
    where = []
    read = LeaseRequest.model_validate

    def recorded(document):
        where.append(threading.current_thread() is threading.main_thread())
        return read(document)

    monkeypatch.setattr(LeaseRequest, "model_validate", recorded)
    for count in (10, 10_000):
        body = {"source": "prod", "digests": digests(count)}
        assert (await api.call("POST", LEASES, body))[0] == 201
    assert where == [True, False]


@pytest.mark.parametrize(("layers", "here"), [(3, True), (1000, False)])
async def test_large_manifests_are_read_beside_the_event_loop(monkeypatch, layers, here):
    named = [
        {"mediaType": "application/x", "digest": digest, "size": 1} for digest in digests(layers)
    ]
    body = msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": named[0],
            "layers": named,
        }
    )
    where = []
    read = manifests.parse_manifest

    def recorded(*document):
        where.append(threading.current_thread() is threading.main_thread())
        return read(*document)

    monkeypatch.setattr(looking, "parse_manifest", recorded)
    fetched = FetchedManifest(body, OCI_MANIFEST, bytes(32), datetime.now(UTC))
    await looking.look_at(fetched)
    await looking.parsed(fetched)
    assert where == [here, here]


async def test_a_body_that_is_wrong_ten_thousand_times_is_told_in_a_hundred_lines(api):
    body = {"source": "prod", "digests": ["sha256:" + "x" * 64] * 10_000}
    status, problem = await api.call("POST", LEASES, body)
    assert status == 400
    assert len(problem["errors"]) == 100
    assert "and 9995 more" in problem["detail"]
