"""Plan, store, apply: what was shown is carried out, or it is refused with what changed."""

import asyncio
import uuid
from datetime import timedelta

import pytest_asyncio

from registry.client import RegistryClient
from registry.push import build_image, build_layer, push_image
from tests.integration.quota.conftest import Service
from tests.support.live_api import live_api

PLANS = "/v1/workspaces/acme/cleanup-plans"
RUNS = "/v1/workspaces/acme/cleanups"


@pytest_asyncio.fixture
async def api(service: Service):
    async with live_api(service.pool, str(service.registry.base)) as running:
        yield running


async def planned(service, api, count=8):
    await service.configure("acme", 1_000_000)
    images = [await service.push("acme/api", f"1.{number}", 100_000) for number in range(count)]
    status, plan = await api.call("POST", PLANS, {})
    assert status == 200, plan
    return images, plan


def going(plan):
    return [image["digest"] for image in plan["images"] if image["action"] == "delete"]


async def test_a_stored_plan_is_carried_out_exactly_as_it_was_shown(service, api):
    _images, plan = await planned(service, api)
    assert len(plan["images"]) == 8
    assert all(image["code"] and image["why"] for image in plan["images"])
    assert (await api.call("GET", f"{PLANS}/{plan['id']}"))[1] == plan

    status, outcome = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 200, outcome
    assert [image["digest"] for image in outcome["images"]] == going(plan)
    assert outcome["freed_bytes"] == plan["freed_bytes"] > 0
    assert outcome["target_reached"]
    assert await service.usage("acme") == plan["usage_after_bytes"]

    _status, run = await api.call("GET", f"{RUNS}/{outcome['run_id']}")
    assert (run["state"], run["plan_id"], run["promised_bytes"]) == (
        "finished",
        plan["id"],
        plan["freed_bytes"],
    )
    status, problem = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 409
    assert outcome["run_id"] in problem["detail"]


async def test_a_plan_that_does_not_hold_any_more_is_refused_with_what_changed(service, api):
    images, plan = await planned(service, api)
    await service.push_built("acme/api", "stable", images[0])
    before = await service.usage("acme")
    status, problem = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 409
    changes = [error["message"] for error in problem["errors"]]
    assert any("acme/api:1.0 has other tags now: 1.0, stable" in change for change in changes)
    assert await service.usage("acme") == before
    assert (await api.call("GET", RUNS))[1]["items"] == []


async def test_a_tag_that_only_the_registry_knows_is_found_before_anything_goes(service, api):
    images, plan = await planned(service, api)
    await push_image(service.registry, "acme/api", images[0], "lost-event")
    status, problem = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 409, problem
    assert "lost-event" in problem["errors"][0]["message"]
    assert "1.0" in await service.tags("acme/api")


async def test_a_push_beside_it_does_not_stand_in_the_way(service, api):
    _images, plan = await planned(service, api)
    await service.push("acme/web", "1", 1000)
    status, outcome = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 200, outcome
    assert [image["digest"] for image in outcome["images"]] == going(plan)


async def test_an_expired_plan_is_gone_and_an_unknown_one_is_not_there(service, api):
    _images, plan = await planned(service, api)
    api.clock.ahead = timedelta(minutes=15)
    status, problem = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert (status, problem["status"]) == (410, 410)
    assert "expired" in problem["detail"]
    assert (await api.call("POST", RUNS, {"plan": str(uuid.uuid4())}))[0] == 404
    assert (await api.call("GET", f"{PLANS}/{uuid.uuid4()}"))[0] == 404
    status, problem = await api.call("POST", RUNS, {"plan": "mine"})
    assert (status, problem["errors"][0]["field"]) == (400, "plan")
    assert (await api.call("POST", PLANS, {"unheard": 1}))[0] == 400


async def test_a_plan_is_no_use_in_another_workspace(service, api):
    _images, plan = await planned(service, api)
    await service.configure("other", 1000)
    status, _problem = await api.call("POST", "/v1/workspaces/other/cleanups", {"plan": plan["id"]})
    assert status == 404


async def test_a_plan_that_a_breaker_refuses_is_not_carried_out(service, api):
    await service.configure("acme", 1_000_000, max_images_per_run=1)
    for number in range(8):
        await service.push("acme/api", f"1.{number}", 100_000)
    _status, plan = await api.call("POST", PLANS, {})
    assert [block["code"] for block in plan["blocks"]] == ["max_images_per_run"]
    status, problem = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 409
    assert "max_images_per_run" in problem["detail"]


async def test_only_so_many_plans_of_a_workspace_are_kept(service, api):
    await service.configure("acme", 1_000_000)
    await service.push_built("acme/api", "1", build_image([build_layer("one", 1000)]))
    callers = [await api.token("read", workspaces=["acme"]) for _ in range(3)]
    ids = [
        (await api.call("POST", PLANS, {}, token=callers[number % 3]))[1]["id"]
        for number in range(22)
    ]
    found = [(await api.call("GET", f"{PLANS}/{identifier}"))[0] for identifier in ids]
    assert found == [404] * 2 + [200] * 20


async def test_rules_that_change_while_a_stored_plan_is_carried_out_stop_it(
    service, api, monkeypatch
):
    _images, plan = await planned(service, api)
    assert len(going(plan)) > 1
    delete = RegistryClient.delete_manifest

    async def delete_and_configure(client, repository, digest):
        done = await delete(client, repository, digest)
        await service.configure("acme", 1_000_000, keep_tags=["1.*"])
        return done

    monkeypatch.setattr(RegistryClient, "delete_manifest", delete_and_configure)
    status, outcome = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 200, outcome
    assert [image["digest"] for image in outcome["images"]] == going(plan)[:1]
    assert outcome["warnings"] == ["rules_changed"]
    _status, run = await api.call("GET", f"{RUNS}/{outcome['run_id']}")
    assert (run["state"], run["message"]) == (
        "stopped",
        "quota or policy was changed while the cleanup ran",
    )
    assert {item["state"] for item in run["items"]} == {"deleted", "skipped"}


async def test_a_plan_waits_for_another_cleanup_no_longer_than_its_caller(
    service, api, monkeypatch
):
    _images, plan = await planned(service, api)
    begun, go_on = asyncio.Event(), asyncio.Event()
    delete = RegistryClient.delete_manifest

    async def delete_slowly(client, repository, digest):
        begun.set()
        await go_on.wait()
        return await delete(client, repository, digest)

    monkeypatch.setattr(RegistryClient, "delete_manifest", delete_slowly)
    other = asyncio.create_task(api.call("POST", RUNS, {}))
    await begun.wait()
    status, problem = await api.call("POST", RUNS, {"plan": plan["id"], "timeout_s": 0.2})
    assert status == 409
    assert "still running" in problem["detail"]
    go_on.set()
    assert (await other)[0] == 200
    assert len((await api.call("GET", RUNS))[1]["items"]) == 1


async def test_a_plan_knows_which_images_the_registry_has_lost_and_can_be_carried_out(service, api):
    """Their deletion was never told, and only reconciliation forgets them."""
    await service.configure("acme", 1_000_000)
    images = [await service.push("acme/api", f"1.{number}", 100_000) for number in range(9)]
    for image in images[4:]:
        await service.registry.delete_manifest("acme/api", image.digest)
    status, plan = await api.call("POST", PLANS, {})
    assert status == 200, plan
    assert "images_not_found" in [warning["code"] for warning in plan["warnings"]]
    assert going(plan) == [f"sha256:{image.digest.hex()}" for image in images[:2]]
    status, outcome = await api.call("POST", RUNS, {"plan": plan["id"]})
    assert status == 200, outcome
    assert [image["digest"] for image in outcome["images"]] == going(plan)
    assert await service.tags("acme/api") == {"1.2", "1.3"}


async def test_a_plan_is_made_without_the_registry_too_and_says_so(service):
    await service.configure("acme", 1_000_000)
    for number in range(9):
        await service.push("acme/api", f"1.{number}", 100_000)
    async with live_api(service.pool, "http://127.0.0.1:9") as api:
        status, plan = await api.call("POST", PLANS, {})
    assert status == 200, plan
    assert [warning["code"] for warning in plan["warnings"]] == ["registry_not_asked"]
    assert going(plan)
