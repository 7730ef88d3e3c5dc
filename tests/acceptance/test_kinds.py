"""Places are for what runs, on real registries: no notification says what an artifact is."""

import uuid

from registry.push import build_image, build_layer, push_image, push_manifest, upload_blob
from tests.support.artifacts import (
    build_cache,
    build_cache_index,
    build_chart,
    build_kaniko_layer,
    build_sbom,
    build_signature,
)
from tests.support.waiting import wait_until

SIZE = 400_000


async def kinds(system, workspace):
    """Tag → kind, as the API tells them; None: not known yet."""
    return {
        f"{item['app']}:{tag}": item["kind"]
        for item in await system.images(workspace)
        for tag in item["tags"]
    }


async def all_known(system, workspace, count):
    async def known():
        found = await kinds(system, workspace)
        return found if len(found) == count and None not in found.values() else None

    return await wait_until(known, 60, what="every kind is known")


async def versions(system, repository, *, sboms=True):
    for number in range(1, 5):
        name = f"{repository}-{number}"
        await push_image(
            system.registry, repository, build_image([build_layer(name, SIZE)]), f"1.{number}"
        )
        if sboms:
            await push_image(system.registry, repository, build_sbom(name), f"1.{number}-sbom")


async def clean(system, workspace, used_share):
    """Ask the hook where `used_share` of the quota is used; the tags of app api that stay."""
    usage = await system.get(f"/v1/workspaces/{workspace}/usage")
    body = {"quota_bytes": int(usage["usage_bytes"] / used_share)}
    _status, _set = await system.call("PATCH", f"/v1/workspaces/{workspace}", body)
    status, answer = await system.call("POST", "/v1/hooks/pre-build", {"workspace": workspace})
    assert status == 200
    assert not answer["cleanup"]["failed"]
    return {tag async for tag in system.registry.list_tags(f"{workspace}/api")}, answer


async def test_the_newest_versions_stay_with_their_sboms_and_the_cache_goes(system):
    workspace = f"kinds-{uuid.uuid4().hex[:8]}"
    await versions(system, f"{workspace}/api")
    await push_image(
        system.registry, f"{workspace}/api", build_cache(workspace, SIZE), "buildcache"
    )
    found = await all_known(system, workspace, 9)
    assert found["api:1.4"] == "image"
    assert found["api:buildcache"] == "cache"
    assert found["api:1.4-sbom"] == "sbom"
    # The cache is a fifth, a version another one.
    stay, answer = await clean(system, workspace, 0.84)
    assert stay == {f"1.{n}{suffix}" for n in range(1, 5) for suffix in ("", "-sbom")}
    assert [image["tags"] for image in answer["cleanup"]["images"]] == [["buildcache"]]
    stay, answer = await clean(system, workspace, 0.85)
    assert stay == {f"1.{n}{suffix}" for n in range(2, 5) for suffix in ("", "-sbom")}
    assert answer["reason"] == "cleaned_to_target"


async def test_what_clients_push_is_told_by_its_kind(system):
    workspace = f"kinds-{uuid.uuid4().hex[:8]}"
    repository = f"{workspace}/api"
    image = build_image([build_layer(workspace, 1000)])
    key, layer = build_kaniko_layer(f"{workspace}-kaniko", 1000)
    pushes = {
        (repository, "1"): image,
        (repository, "cache"): build_cache(workspace, 1000),
        (repository, "chart"): build_chart(workspace),
        (repository, f"sha256-{image.digest.hex()}.sig"): build_signature(workspace),
        (repository, "signed"): build_signature(f"{workspace}-2"),
        (repository, "model"): build_sbom(workspace, artifact_type="application/vnd.example.model"),
        (f"{repository}/cache", key): layer,
    }
    for (place, tag), pushed in pushes.items():
        await push_image(system.registry, place, pushed, tag)
    index, blobs = build_cache_index(workspace, 1000, 2000)
    for blob in blobs:
        await upload_blob(system.registry, repository, blob.content)
    await push_manifest(system.registry, repository, index, "old-cache")
    found = await all_known(system, workspace, 8)
    assert found == {
        "api:1": "image",
        "api:cache": "cache",
        "api:chart": "chart",
        f"api:sha256-{image.digest.hex()}.sig": "signature",
        "api:signed": "signature",
        "api:model": "artifact",
        f"api/cache:{key}": "cache",
        "api:old-cache": "cache",
    }
    (model,) = [item for item in await system.images(workspace) if item["tags"] == ["model"]]
    assert model["artifact_type"] == "application/vnd.example.model"
    _status, plan = await system.call("POST", f"/v1/workspaces/{workspace}/cleanup-plans", {})
    assert {tag: item["kind"] for item in plan["images"] for tag in item["tags"]} == {
        name.partition(":")[2]: kind for name, kind in found.items()
    }
