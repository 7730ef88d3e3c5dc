"""The documents are served without a token, and what is served is what stands in the repository."""

from pathlib import Path

import pytest

from quota.events import DATA
from tests.support.published import check_event

REFERENCE = Path(__file__).parents[4] / "docs" / "reference"


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
async def test_a_document_is_served_as_it_stands_in_the_repository(api, name):
    status, _answer, raw = await api.raw("GET", f"/{name}", token=None)
    assert (status, raw) == (200, (REFERENCE / name).read_bytes())


async def test_the_schema_of_every_event_is_served(api):
    for kind in DATA:
        for name in (kind, f"{kind}.json", kind.removeprefix("io.registryquota.")):
            status, _answer, raw = await api.raw("GET", f"/schemas/{name}", token=None)
            assert (status, raw) == (200, (REFERENCE / "events" / f"{kind}.json").read_bytes())
    assert (await api.raw("GET", "/schemas/nothing", token=None))[0] == 404


async def test_the_page_for_people_may_run_and_load_nothing(api):
    status, answer, raw = await api.raw("GET", "/docs", token=None)
    assert status == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert b"/v1/hooks/pre-build" in raw


async def test_events_of_the_api_have_the_data_that_their_schema_says(api):
    record = {
        "workspace": "acme",
        "app": "api",
        "tag": "1",
        "digest": f"sha256:{'1' * 64}",
        "sizeBytes": 900,
    }
    await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": 1000})
    assert (await api.call("POST", "/api/internal/registry-images", record))[0] == 201
    path = "/api/internal/workspaces/acme/registry-images"
    _status, (made,) = await api.call("GET", path)
    assert (await api.call("DELETE", f"/api/internal/registry-images/{made['id']}"))[0] == 200
    await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": 1000, "enforcement": "strict"})
    body = {"workspace": "acme", "incoming_bytes": 2000}
    assert (await api.call("POST", "/v1/hooks/pre-build", body))[1]["decision"] == "deny"
    _status, page = await api.call("GET", "/v1/workspaces/acme/events")
    envelope = {"specversion": "1.0", "source": "/registry-quota"}
    for event in page["items"]:
        check_event(event | envelope)
    assert {event["type"].split(".", 2)[2] for event in page["items"]} == {
        "image.recorded.v1",
        "image.removed.v1",
        "usage.level_changed.v1",
        "build.denied.v1",
    }
