"""A build platform's calls on real processes, by a client in another language made from our proto."""

import uuid

from registry.names import format_digest
from registry.push import build_image, build_layer, push_image
from tests.acceptance.test_main_job import accounted, set_up
from tests.support.node_client import call, install


async def test_a_client_in_another_language_checks_builds_and_tracks(system2):
    node = install()
    target = system2.environment["RQ_GRPC_TARGET"]
    token = system2.environment["RQ_INTERNAL_API_KEY"]
    workspace = await set_up(system2, 1_000_000, untagged_grace=0)

    async def check(**request):
        told = await call(node, target, "CheckQuotaAndCleanup", request, token=token)
        return told["response"]

    first = await check(workspace_id=workspace)
    assert first == {
        "cleanup_performed": False,
        "current_usage_bytes": "0",
        "quota_bytes": "1000000",
        "cleaned_images": [],
        "error": "",
    }
    for number in range(8):
        image = build_image([build_layer(uuid.uuid4().hex, 100_000)])
        await push_image(system2.registry, f"{workspace}/api", image, f"v{number}")
    tracked = await call(
        node,
        target,
        "TrackImage",
        {
            "workspace_id": workspace,
            "app_id": "api",
            "tag": "v7",
            "digest": format_digest(image.digest),
            "registry_url": "http://nobody.invalid",
            "repository": f"{workspace}/api",
        },
        token=token,
    )
    assert tracked["response"]["error"] == ""
    assert int(tracked["response"]["size_bytes"]) == sum(len(blob.content) for blob in image.blobs)
    usage = await accounted(system2, workspace, images=8)

    cleaned = await check(workspace_id=workspace, incoming_image_size_estimate=100_000)
    assert cleaned["cleanup_performed"]
    assert int(cleaned["current_usage_bytes"]) + 100_000 <= 700_000
    assert [entry["tag"] for entry in cleaned["cleaned_images"]] == ["v0", "v1", "v2"]
    freed = sum(int(entry["size_bytes"]) for entry in cleaned["cleaned_images"])
    assert freed == usage["usage_bytes"] - int(cleaned["current_usage_bytes"])

    told = await call(node, target, "CheckQuotaAndCleanup", {"workspace_id": workspace})
    assert told["status"] == "UNAUTHENTICATED"
