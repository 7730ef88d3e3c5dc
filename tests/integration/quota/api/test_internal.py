"""The internal API, as a build platform that was written against another service calls it."""

import asyncio
import json
import re
import time
import uuid
from datetime import timedelta

import pytest

from ledger.facts import Content, ManifestDeleted, ManifestPushed
from quota.api.gate import Gate
from quota.records import Records
from tests.support import ledgers
from tests.support.live_api import INTERNAL, OPERATOR, live_api

FIXED_WIDTH = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z")
RECORD = {"id", "workspace", "app", "appName", "tag", "digest", "sizeBytes", "pushedAt"}


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def body(**changes):
    return {
        "workspace": "acme",
        "app": "api",
        "tag": "1.0",
        "digest": digest(1),
        "sizeBytes": 1000,
    } | changes


async def put(api, expected=201, token=INTERNAL, **changes):
    status, answer = await api.call(
        "POST", "/api/internal/registry-images", body(**changes), token=token
    )
    assert status == expected, answer
    return answer


async def records(api, workspace="acme", token=INTERNAL):
    status, answer = await api.call(
        "GET", f"/api/internal/workspaces/{workspace}/registry-images", token=token
    )
    assert status == 200, answer
    return answer


async def usage(api, workspace="acme"):
    status, answer = await api.call(
        "GET", f"/api/internal/workspaces/{workspace}/registry-usage", token=INTERNAL
    )
    assert status == 200, answer
    return answer["currentBytes"]


async def pushed(api, repository, tag, number, size, *, moment_ns=None):
    """What a notification tells of a push."""
    layer = bytes([number]) * 32
    fact = ManifestPushed(
        "default",
        repository,
        bytes.fromhex(digest(number)[7:]),
        (moment_ns or time.time_ns(), uuid.uuid4().bytes),
        "application/vnd.oci.image.manifest.v1+json",
        500,
        tag,
        Content(blobs=((layer, size),)),
    )
    await api.recorder.record([fact], now=api.clock())


async def exact(api):
    """The counters are a recount of the manifests."""
    assert await ledgers.usage(api.pool) == {
        name: size for name, size in (await ledgers.recount(api.pool)).items() if size
    }


async def test_a_record_is_made_then_changed_and_takes_part_in_usage(api):
    made = await put(api)
    assert made.keys() == RECORD
    assert (made["workspace"], made["app"], made["appName"]) == ("acme", "api", "api")
    assert (made["tag"], made["digest"], made["sizeBytes"]) == ("1.0", digest(1), 1000)
    assert FIXED_WIDTH.fullmatch(made["pushedAt"])
    assert await usage(api) == 1000

    changed = await put(api, 200, sizeBytes=700)
    assert (changed["id"], changed["sizeBytes"]) == (made["id"], 700)
    assert await usage(api) == 700
    assert await records(api) == [changed]

    # The tag moves: what it named before is untagged, and counts until it is deleted.
    moved = await put(api, 200, digest=digest(2), sizeBytes=50)
    assert (moved["id"], moved["digest"]) == (made["id"], digest(2))
    assert await records(api) == [moved]
    assert await usage(api) == 750
    await exact(api)


async def test_records_come_oldest_push_first_all_of_them(api):
    moment = time.time_ns() - 10**12
    facts = []
    for number in range(1500):
        content = Content(blobs=((number.to_bytes(32, "big"), 1),))
        key = (7919 * number % 1500) + 1
        facts.append(
            ManifestPushed(
                "default",
                f"acme/app-{number % 7}",
                bytes.fromhex(digest(number + 1)[7:]),
                (moment + key * 10**6, uuid.uuid4().bytes),
                "application/vnd.oci.image.manifest.v1+json",
                1,
                f"v{number}",
                content,
            )
        )
    await api.recorder.record(facts, now=api.clock())
    found = await records(api)
    assert len(found) == 1500
    assert len({item["id"] for item in found}) == 1500
    moments = [item["pushedAt"] for item in found]
    assert moments == sorted(moments)
    assert all(FIXED_WIDTH.fullmatch(item) for item in moments)


async def test_untagged_images_are_no_records_and_several_tags_are_several(api):
    await pushed(api, "acme/api", "a", 1, 10)
    await pushed(api, "acme/api", "b", 1, 10)
    await pushed(api, "acme/api", None, 2, 10)
    found = await records(api)
    assert [(item["tag"], item["digest"]) for item in found] == [("a", digest(1)), ("b", digest(1))]


async def test_what_the_registry_tells_replaces_what_was_claimed(api):
    await put(api, sizeBytes=10**9)
    await pushed(api, "acme/api", "1.0", 1, 300)
    (record,) = await records(api)
    assert record["sizeBytes"] == 300
    assert await usage(api) == 800
    # Another claim changes nothing any more; a later push by the registry's word moves the tag.
    assert (await put(api, 200, sizeBytes=5))["sizeBytes"] == 300
    await pushed(api, "acme/api", "1.0", 3, 40)
    (record,) = await records(api)
    assert (record["digest"], record["sizeBytes"]) == (digest(3), 40)
    await exact(api)


async def test_a_claim_that_comes_after_the_event_of_the_same_push_changes_nothing(api):
    await pushed(api, "acme/api", "1.0", 1, 300)
    before = await ledgers.usage(api.pool)
    record = await put(api, 200, sizeBytes=10**9)
    assert record["sizeBytes"] == 300
    assert await ledgers.usage(api.pool) == before


async def test_a_claim_comes_back_after_the_image_was_deleted_and_pushed_again(api):
    await pushed(api, "acme/api", "1.0", 1, 300)
    stamp = (time.time_ns(), uuid.uuid4().bytes)
    gone = ManifestDeleted("default", "acme/api", bytes.fromhex(digest(1)[7:]), stamp)
    await api.recorder.record([gone], now=api.clock())
    assert await records(api) == []
    await put(api, 201)
    assert [item["tag"] for item in await records(api)] == ["1.0"]


async def test_delete_removes_the_record_never_the_image(api):
    await pushed(api, "acme/api", "1.0", 1, 300)
    (record,) = await records(api)
    path = f"/api/internal/registry-images/{record['id']}"
    assert await api.call("DELETE", path, token=INTERNAL) == (200, {"success": True})
    assert await records(api) == []
    assert await usage(api) == 800, "the registry still has it"
    assert (await api.call("DELETE", path, token=INTERNAL))[0] == 404
    # The same push told again is old news; a new one brings the record back.
    await pushed(api, "acme/api", "1.0", 1, 300)
    assert [item["id"] for item in await records(api)] == [record["id"]]


async def test_an_image_that_only_records_told_of_goes_with_the_last(api):
    first, second = await put(api), await put(api, tag="2.0")
    for record, bytes_left in ((first, 1000), (second, 0)):
        path = f"/api/internal/registry-images/{record['id']}"
        assert (await api.call("DELETE", path, token=INTERNAL))[0] == 200
        assert await usage(api) == bytes_left
    status, answer = await api.call("GET", "/v1/workspaces/acme/usage")
    assert (status, answer["awaiting_gc_bytes"]) == (200, 0)
    await exact(api)
    assert await put(api, 201) == (await records(api))[0]


async def test_a_claim_is_asked_of_the_registry_afterwards(api):
    await put(api)
    assert await api.pool.fetchval("SELECT count(*) FROM tag_checks") == 1
    status, page = await api.call("GET", "/v1/workspaces/acme/images")
    assert (status, page["items"][0]["size_pending"]) == (200, True)
    status, answer = await api.call("GET", "/v1/status")
    assert (status, answer["sizes_pending"]) == (200, 1)
    kinds = await api.pool.fetch("SELECT kind, source FROM observations")
    assert [tuple(row.values()) for row in kinds] == [("ManifestSeen", "internal-api")]


async def test_the_repository_is_the_mapped_one(api):
    await pushed(api, "legacy/name", "0", 9, 10)
    moved = {"workspace": "acme", "app": "api"}
    assert (await api.call("PUT", "/v1/repositories/default/legacy/name", moved))[0] == 200
    await put(api, tag="1.0")
    assert await ledgers.tags(api.pool) == {
        "legacy/name": {"0": bytes.fromhex(digest(9)[7:]), "1.0": bytes.fromhex(digest(1)[7:])}
    }
    # `acme/api` itself was never heard of; when it is given away, its name is not taken back.
    away = {"workspace": "other", "app": "web"}
    assert (await api.call("PUT", "/v1/repositories/default/acme/web", away))[0] == 200
    await put(api, 409, app="web")


async def test_callers_may_send_what_their_own_type_has_besides(api):
    extra = {"id": "", "appName": "", "pushedAt": "0001-01-01T00:00:00Z"}
    assert (await put(api, **extra))["pushedAt"] > "2020"


async def test_the_moment_of_a_claim_is_when_it_came(api):
    first = await put(api)
    api.clock.ahead = timedelta(seconds=60)
    later = await put(api, 200, digest=digest(2))
    assert later["pushedAt"] > first["pushedAt"]
    await put(api, tag="0.9", digest=digest(1))
    assert [item["tag"] for item in await records(api)] == ["1.0", "0.9"]


@pytest.mark.parametrize("token", [None, "", "x", INTERNAL + "x", INTERNAL[:-1], f" {INTERNAL} x"])
async def test_no_or_a_wrong_key_opens_nothing(api, token):
    for method, path in (
        ("GET", "/api/internal/workspaces/acme/registry-usage"),
        ("GET", "/api/internal/workspaces/acme/registry-images"),
        ("POST", "/api/internal/registry-images"),
        ("DELETE", "/api/internal/registry-images/1.a"),
    ):
        status, answer = await api.call(method, path, body(), token=token)
        assert (status, answer["status"]) == (401, 401)


async def test_the_internal_key_opens_nothing_else(api):
    await put(api)
    assert (await api.call("GET", "/v1/workspaces/acme", token=INTERNAL))[0] == 401
    assert (await api.call("GET", "/v1/tokens", token=INTERNAL))[0] == 401


async def test_api_tokens_are_taken_with_their_scope_for_their_workspaces(api):
    record = await put(api)
    await put(api, workspace="other")
    reader = await api.token("read", workspaces=["acme"])
    writer = await api.token("write", workspaces=["other"])
    assert await records(api, token=reader) == [record]
    assert await records(api, token=OPERATOR) == [record]
    path = "/api/internal/workspaces/other/registry-images"
    assert (await api.call("GET", path, token=reader))[0] == 404
    assert (await api.call("GET", path, token=writer))[0] == 403
    await put(api, 403, token=reader)
    await put(api, 404, token=writer)
    await put(api, 201, token=writer, workspace="other", tag="2")
    path = f"/api/internal/registry-images/{record['id']}"
    assert (await api.call("DELETE", path, token=writer))[0] == 404


async def test_an_unknown_workspace_is_404(api):
    for what in ("registry-usage", "registry-images"):
        path = f"/api/internal/workspaces/nobody/{what}"
        status, answer = await api.call("GET", path, token=INTERNAL)
        assert (status, answer["title"]) == (404, "Not Found")


async def test_all_images_reach_a_reader_that_is_slower_than_a_question_may_take(pool, monkeypatch):
    """Who is refused in the middle of them has half of an image, and waits for the rest."""
    part = [{"id": "x" * 1_000_000}]

    async def many(_self, _workspace_id):
        for _ in range(30):  # more than the sockets between hold
            yield part

    monkeypatch.setattr(Records, "all", many)
    async with live_api(pool, gate=Gate(read_seconds=0.3)) as api:
        assert (await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**9}))[0] == 200
        async with api.session.get(
            f"{api.base}/api/internal/workspaces/acme/registry-images",
            headers={"Authorization": f"Bearer {OPERATOR}"},
        ) as response:
            await asyncio.sleep(0.6)  # twice what a question may take
            async with asyncio.timeout(10):
                assert json.loads(await response.read()) == part * 30
