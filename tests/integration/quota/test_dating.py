"""Images of unknown age: the hook says what is in the way, and a person's date lets them go."""

import json
import time
import uuid

import pytest_asyncio

from quota.reconcile import Reconciler
from registry.client import RegistryClient
from registry.push import build_image, build_index, build_layer, push_image, push_index
from registry.workspaces import WorkspaceRule
from tests.integration.quota.conftest import service_of, utc_now
from tests.support import ledgers
from tests.support.live_api import live_api

DATES = "/v1/workspaces/acme/image-dates"
AGES = "/v1/workspaces/acme/images"
UNBELIEVABLE = "1970-01-01T00:00:00Z"


@pytest_asyncio.fixture(params=["2", "3"])
async def service(request, pool, backend):
    async with (
        backend.registry(request.param, notification_url="http://127.0.0.1:9/x", token="t") as at,
        RegistryClient(at.url) as client,
    ):
        yield service_of(pool, client)


@pytest_asyncio.fixture
async def api(service):
    async with live_api(service.pool, str(service.registry.base)) as running:
        yield running


def an_image(size=100_000):
    return build_image([build_layer(uuid.uuid4().hex, size)], created=UNBELIEVABLE)


async def installed(service, api, *, quota_bytes=600_000, images=5):
    """A strict workspace full of images that do not say how old they are."""
    for number in range(images):
        await push_image(service.registry, "acme/api", an_image(), f"1.{number}")
    index = build_index({name: an_image(1000) for name in ("amd64", "arm64")})
    await push_index(service.registry, "acme/web", index, "multi")
    await Reconciler(
        pool=service.pool,
        recorder=ledgers.recorder(service.pool),
        client=service.registry,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=utc_now,
        in_flight=0.0,
    ).run()
    status, answer = await api.call(
        "PATCH", "/v1/workspaces/acme", {"quota_bytes": quota_bytes, "enforcement": "strict"}
    )
    assert status == 200, answer
    return index


async def ages(api):
    _status, answer = await api.call("GET", f"{AGES}?limit=1000")
    return {
        (tuple(item["tags"]) or item["digest"]): (item["named_at"], item["named_by"])
        for item in answer["items"]
    }


async def hook(api, **build):
    body = {"workspace": "acme", "app": "api", "incoming_bytes": 150_000, **build}
    status, answer = await api.call("POST", "/v1/hooks/pre-build", body)
    assert status == 200, answer
    return answer


async def test_a_strict_workspace_of_unknown_ages_says_the_way_out_and_it_leads_out(service, api):
    await installed(service, api)
    denied = await hook(api)
    assert denied["decision"] == "deny"
    assert "registry-quota images date" in denied["message"]
    assert "push" in denied["message"]

    status, answer = await api.call("POST", DATES, {"date": "2025-03-31T00:00:00Z"})
    assert (status, answer["dated"]) == (200, 8), "images, the index, and its children"
    assert {item["named_by"] for item in answer["images"]} == {"date"}
    assert set((await ages(api)).values()) == {("2025-03-31T00:00:00.000000Z", "date")}

    allowed = await hook(api)
    assert allowed["decision"] == "proceed"
    assert allowed["cleanup"]["images"]


async def test_images_that_are_dated_together_go_in_the_order_of_their_tags(service, api):
    """Of five that are all as old as a person says, the lowest versions go, whatever their digests."""
    await installed(service, api, quota_bytes=1_500_000, images=12)
    status, dated = await api.call("POST", DATES, {"date": "2025-01-01T00:00:00Z"})
    assert status == 200, dated
    answer = await hook(api, dry_run=True)
    gone = {tag for image in answer["cleanup"]["images"] for tag in image["tags"]}
    assert gone == {f"1.{number}" for number in range(len(gone))} != set()


async def test_an_image_is_dated_with_what_belongs_to_it_and_the_last_word_counts(service, api):
    index = await installed(service, api)
    for date in ("2025-03-31T00:00:00Z", "2024-01-01T12:00:00+02:00"):
        status, answer = await api.call("POST", DATES, {"image": "acme/web:multi", "date": date})
        assert (status, answer["dated"]) == (200, 3 if date.startswith("2025") else 1)
    found = await ages(api)
    assert found["multi",] == ("2024-01-01T10:00:00.000000Z", "date")
    assert found["1.0",] == (None, None)
    children = {f"sha256:{image.digest.hex()}" for image in index.images}
    assert {found[child] for child in children} == {("2025-03-31T00:00:00.000000Z", "date")}

    # It is an observation: a ledger that is made of them anew says the same.
    rows = await service.pool.fetch("SELECT fact FROM observations WHERE source = 'dated'")
    assert len(rows) == 4
    assert {json.loads(row["fact"])["type"] for row in rows} == {"ManifestDated"}


async def test_a_tag_that_newly_names_it_counts_for_more_and_a_date_then_is_refused(service, api):
    await installed(service, api, images=1)
    image = an_image()
    await push_image(service.registry, "acme/api", image, "new")
    pushed_ns = time.time_ns()
    document = image.manifest
    await service.tell("acme/api", "new", document.content, document.media_type, at_ns=pushed_ns)
    status, answer = await api.call(
        "POST", DATES, {"image": "acme/api:new", "date": "2020-01-01T00:00:00Z"}
    )
    assert (status, "its age is known" in answer["detail"]) == (409, True)
    assert (await ages(api))["new",][1] == "tag"


async def test_nonsense_is_refused_by_field(service, api):
    await installed(service, api, images=1)
    good = "2025-03-31T00:00:00Z"
    cases = [
        ({}, 400, "date"),
        ({"date": "2025-03-31T00:00:00"}, 400, "date"),
        ({"date": "1999-12-31T00:00:00Z"}, 400, "date"),
        ({"date": "2999-01-01T00:00:00Z"}, 422, "date"),
        ({"date": good, "image": "acme/api"}, 422, "image"),
        ({"date": good, "image": "acme/api:none"}, 404, "acme/api:none"),
        ({"date": good, "image": "acme/api:1.0", "app": "api"}, 400, "app"),
    ]
    for body, wanted, word in cases:
        status, answer = await api.call("POST", DATES, body)
        assert (status, word in json.dumps(answer)) == (wanted, True), (body, answer)
    assert (await api.call("POST", DATES, {"date": good, "app": "none"}))[1]["dated"] == 0
