"""The main job on real processes: push → account → level event → hook → delete, on both registries."""

import asyncio
import hashlib
import json
import uuid

from registry.names import parse_digest
from registry.push import build_image, build_index, build_layer, push_image, push_index
from tests.support.waiting import wait_until


def fresh(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


async def set_up(system, quota_bytes, **policy):
    workspace = fresh("acme")
    status, answer = await system.call(
        "PATCH", f"/v1/workspaces/{workspace}", {"quota_bytes": quota_bytes, "policy": policy}
    )
    assert status == 200, answer
    return workspace


async def accounted(system, workspace, *, images):
    """Wait until the account holds so many manifests; its usage."""

    async def there():
        status, usage = await system.call("GET", f"/v1/workspaces/{workspace}/usage")
        return usage if status == 200 and usage["images"] == images else None

    return await wait_until(there, 20, what=f"{images} manifests in {workspace}")


async def pull(system, repository, digest):
    """Every byte of an image, as a client pulls it; returns digest → size."""
    fetched = await system.registry.get_manifest(repository, parse_digest(digest))
    found = {digest: len(fetched.body)}
    document = json.loads(fetched.body)
    for child in document.get("manifests", ()):
        found |= await pull(system, repository, child["digest"])
    for blob in [document["config"], *document["layers"]] if "layers" in document else []:
        body = await system.registry.get_blob(repository, parse_digest(blob["digest"]), 10**8)
        assert f"sha256:{hashlib.sha256(body).hexdigest()}" == blob["digest"]
        found[blob["digest"]] = len(body)
    return found


async def recount(system, workspace):
    """The account's images, pulled from the registry: their bytes, each digest once."""
    found: dict[str, int] = {}
    for item in await system.images(workspace):
        found |= await pull(system, item["repository"], item["digest"])
    return sum(found.values())


async def test_a_push_is_recorded_counted_announced_and_makes_room(system):
    workspace = await set_up(system, 1_000_000, untagged_grace=0)
    base = build_layer(fresh("base"), 100_000)
    for number in range(8):
        layer = build_layer(fresh("layer"), 90_000)
        await push_image(
            system.registry, f"{workspace}/api", build_image([base, layer]), f"1.{number}"
        )
    usage = await accounted(system, workspace, images=8)
    assert usage["usage_bytes"] == await recount(system, workspace)
    assert usage["level"] == "warning"

    status, answer = await system.call(
        "POST",
        "/v1/hooks/pre-build",
        {"workspace": workspace, "app": "api", "incoming_bytes": 90_000},
    )
    assert status == 200
    assert (answer["decision"], answer["reason"]) == ("proceed", "cleaned_to_target")
    assert answer["cleanup"]["performed"]
    assert answer["usage_bytes"] + 90_000 <= 700_000
    assert answer["usage_bytes_before"] - answer["usage_bytes"] == answer["cleanup"]["freed_bytes"]
    # Oldest first, and not one more than needed.
    gone = [tag for image in answer["cleanup"]["images"] for tag in image["tags"]]
    assert gone == [f"1.{number}" for number in range(len(gone))]
    assert answer["usage_bytes"] + 90_000 + answer["cleanup"]["images"][-1]["freed_bytes"] > 700_000

    listed = {tag async for tag in system.registry.list_tags(f"{workspace}/api")}
    kept = {tag for item in await system.images(workspace) for tag in item["tags"]}
    assert kept == listed == {f"1.{number}" for number in range(len(gone), 8)}
    assert await system.usage(workspace) == await recount(system, workspace)

    async def told():
        events = await system.quota_events(workspace)
        types = [event["type"].removeprefix("io.registryquota.") for event in events]
        return events if "cleanup.finished.v1" in types else None

    events = await wait_until(told, 20, interval=0.5, what="the quota events")
    levels = [e["data"]["level"] for e in events if "level_changed" in e["type"]]
    assert levels == ["warning", "ok"]
    assert sum("image.recorded" in e["type"] for e in events) == 8
    assert len({event["id"] for event in events}) == len(events)
    assert all(event["specversion"] == "1.0" for event in events)


async def test_deleting_by_digest_considers_every_tag_and_indexes_keep_their_children(system):
    workspace = await set_up(system, 1_000_000)
    repository = f"{workspace}/web"
    index = build_index(
        {
            platform: build_image([build_layer(fresh("layer"), 150_000)], architecture=platform)
            for platform in ("amd64", "arm64")
        }
    )
    await push_index(system.registry, repository, index, "1.0", "latest")
    for number in range(1, 7):
        layer = build_layer(fresh("layer"), 90_000)
        await push_image(system.registry, repository, build_image([layer]), f"1.{number}")
    await accounted(system, workspace, images=9)

    _status, answer = await system.call("POST", "/v1/hooks/pre-build", {"workspace": workspace})
    assert answer["reason"] == "cleaned_to_target"
    # The oldest image is the index, but deleting its digest would take `1.0` and `latest` together
    # with both platforms: that is what is reported, or it is kept whole.
    images = await system.images(workspace)
    for item in images:
        for tag in item["tags"]:
            state = await system.registry.tag_digest(repository, tag)
            assert state.digest == parse_digest(item["digest"])
    assert await system.usage(workspace) == await recount(system, workspace)
    tagged = {tag for item in images for tag in item["tags"]}
    assert {"1.4", "1.5", "1.6"} <= tagged


async def test_two_hooks_at_once_run_one_cleanup(system):
    workspace = await set_up(system, 1_000_000)
    for _ in range(9):
        layer = build_layer(fresh("layer"), 100_000)
        await push_image(system.registry, f"{workspace}/api", build_image([layer]), fresh("t"))
    await accounted(system, workspace, images=9)
    body = {"workspace": workspace, "app": "api"}
    answers = await asyncio.gather(
        *(system.call("POST", "/v1/hooks/pre-build", body) for _ in range(5))
    )
    assert {status for status, _answer in answers} == {200}
    runs = await system.get(f"/v1/workspaces/{workspace}/cleanups")
    assert len(runs["items"]) == 1
    assert await system.usage(workspace) == await recount(system, workspace)


async def test_a_workspace_below_the_threshold_is_left_alone(system):
    workspace = await set_up(system, 10_000_000)
    await push_image(
        system.registry, f"{workspace}/api", build_image([build_layer("l", 1000)]), "1"
    )
    await accounted(system, workspace, images=1)
    status, answer = await system.call("POST", "/v1/hooks/pre-build", {"workspace": workspace})
    assert (status, answer["reason"]) == (200, "below_threshold")
    assert answer["cleanup"] == {
        "performed": False,
        "run_id": None,
        "freed_bytes": 0,
        "images": [],
        "failed": [],
        "spared": [],
        "target_reached": True,
    }


async def test_bad_input_gets_an_answer_that_says_what_to_do(system2):
    cases = [
        ("POST", "/v1/hooks/pre-build", {}, 400, "workspace"),
        ("POST", "/v1/hooks/pre-build", {"workspace": 7}, 400, "workspace"),
        (
            "POST",
            "/v1/hooks/pre-build",
            {"workspace": "a", "incoming_bytes": -1},
            400,
            "incoming_bytes",
        ),
        (
            "POST",
            "/v1/hooks/pre-build",
            {"workspace": "a", "incoming_bytes": 10**30},
            400,
            "incoming_bytes",
        ),
        (
            "POST",
            "/v1/hooks/pre-build",
            {"workspace": "a", "layers": [{"digest": "x", "size": 1}]},
            400,
            "layers.0.digest",
        ),
        ("POST", "/v1/hooks/pre-build", {"workspace": "a", "timeout_s": 0}, 400, "timeout_s"),
        ("PATCH", "/v1/workspaces/a", {"quota_bytes": 0}, 422, "quota_bytes"),
        ("PATCH", "/v1/workspaces/a", {"quota_bytes": -5}, 422, "quota_bytes"),
        ("PATCH", "/v1/workspaces/a", {"quota": 5}, 400, "quota"),
        ("PATCH", "/v1/workspaces/a", {"enforcement": "harsh"}, 400, "enforcement"),
        ("PATCH", "/v1/workspaces/a", {"policy": {"target": 0.9}}, 422, "policy.target"),
        ("PATCH", "/v1/workspaces/a", {"policy": {"keep_newest": 0}}, 422, "policy.keep_newest"),
        ("PATCH", "/v1/workspaces/a", {"policy": {"unheard": 1}}, 422, "policy.unheard"),
    ]
    for method, path, body, expected, field in cases:
        status, problem = await system2.call(method, path, body)
        assert status == expected, (method, path, body, problem)
        assert field in [error["field"] for error in problem["errors"]], problem
        assert problem["status"] == expected


async def test_only_a_known_token_opens_the_doors(system2):
    for token in ("", "wrong", system2.environment["RQ_WEBHOOK_TOKEN"]):
        status, problem = await system2.call("GET", "/v1/workspaces", token=token)
        assert status == 401
        assert problem["title"] == "Unauthorized"
    assert await system2.notify(b"{}", token="wrong") == 401
