"""The integration steps of the plan that this service replaces, run as they are written (HTTP part)."""

import asyncio
import json
import uuid

from registry.names import format_digest
from registry.push import build_image, build_layer, push_image
from tests.support.waiting import wait_until


async def curl(url, *arguments):
    """What `curl -s` prints, and the status."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-s", "-w", "\n%{http_code}", *arguments, url),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    text, _, status = output.decode().rpartition("\n")
    return text, int(status)


async def test_step_3_and_4_the_registry_and_the_internal_api_answer(system):
    text, status = await curl(f"{system.environment['RQ_REGISTRY_URL']}/v2/_catalog")
    assert status == 200
    assert isinstance(json.loads(text)["repositories"], list)

    key = f"Authorization: Bearer {system.environment['RQ_INTERNAL_API_KEY']}"
    unknown = f"{system.environment['RQ_API_URL']}/api/internal/workspaces/test-{uuid.uuid4().hex}"
    text, status = await curl(f"{unknown}/registry-usage", "-H", key)
    assert (status, json.loads(text)["status"]) == (404, 404)
    _text, status = await curl(f"{unknown}/registry-usage")
    assert status == 401


async def test_a_build_platform_keeps_its_images_with_us(system):
    """The calls of the plan's client, in the order in which it makes them around a build."""
    workspace = f"plan-{uuid.uuid4().hex[:8]}"
    base = f"{system.environment['RQ_API_URL']}/api/internal"
    key = ("-H", f"Authorization: Bearer {system.environment['RQ_INTERNAL_API_KEY']}")
    image = build_image([build_layer(workspace, 5000)])
    digest = format_digest(image.manifest.digest)
    record = {
        "id": "",
        "workspace": workspace,
        "app": "api",
        "appName": "",
        "tag": "1.0",
        "digest": digest,
        "sizeBytes": 1,
        "pushedAt": "0001-01-01T00:00:00Z",
    }
    text, status = await curl(
        f"{base}/registry-images",
        *key,
        *("-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(record)),
    )
    assert status == 201, text
    made = json.loads(text)

    # The push was not heard of when the platform told of it: what the registry says replaces it.
    await push_image(system.registry, f"{workspace}/api", image, "1.0")

    async def corrected():
        listed, _status = await curl(f"{base}/workspaces/{workspace}/registry-images", *key)
        (item,) = json.loads(listed)
        assert (item["id"], item["digest"]) == (made["id"], digest)
        return item if item["sizeBytes"] > 5000 else None

    item = await wait_until(corrected, 20, what="the registry's size of the image")
    text, status = await curl(f"{base}/workspaces/{workspace}/registry-usage", *key)
    usage = json.loads(text)
    assert status == 200
    assert usage["currentBytes"] > item["sizeBytes"], "the manifest itself takes room, too"
    assert usage["quotaBytes"] > 0

    text, status = await curl(f"{base}/registry-images/{item['id']}", *key, "-X", "DELETE")
    assert (status, json.loads(text)) == (200, {"success": True})
    text, _status = await curl(f"{base}/workspaces/{workspace}/registry-images", *key)
    assert json.loads(text) == []
    assert await system.registry.get_manifest(f"{workspace}/api", image.manifest.digest)
    await system.quota_events(workspace)
