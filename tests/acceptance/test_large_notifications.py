"""Manifests whose notification is longer than a record: a real registry's, and counted to the byte."""

import json
import uuid

from registry.media_types import OCI_MANIFEST
from registry.push import Blob, build_image, build_layer, push_image
from tests.acceptance.test_main_job import recount
from tests.support.waiting import wait_until


async def test_a_manifest_whose_notification_is_too_long_is_counted_like_any_other(system):
    """Go escapes `<` sixfold: 2 MB in one annotation become 12 MB of notification, 3.9 MB become 23."""
    workspace = f"big{uuid.uuid4().hex[:6]}"
    for number, length in enumerate((2_000_000, 3_900_000)):
        layer = build_layer(f"{workspace}{number}", 50_000)
        noted = Blob(layer.content, layer.media_type, {"note": "<" * length})
        await push_image(system.registry, f"{workspace}/api", build_image([noted]), f"1.{number}")
    # A manifest of many short layers: what its notification spells out in lines is short in it.
    image = build_image([build_layer(f"{workspace}many", 1000)])
    await push_image(system.registry, f"{workspace}/many", image, "small")
    document = json.loads(image.manifest.content)
    one = {"digest": document["layers"][0]["digest"], "size": 1, "urls": ["a"]}
    document["layers"] = [one] * ((4 << 20) // (len(json.dumps(one)) + 2) - 10)
    many = json.dumps(document).encode()
    await system.registry.put_manifest(f"{workspace}/many", "huge", many, OCI_MANIFEST)
    await push_image(system.registry, f"{workspace}/next", image, "1")

    async def all_there():
        images = await system.images(workspace)
        tags = {tag for item in images for tag in item["tags"]}
        return tags == {"1.0", "1.1", "small", "huge", "1"}

    await wait_until(all_there, 40, what="the pushes are recorded, the last one too")

    async def exact():
        return await system.usage(workspace) == await recount(system, workspace)

    await wait_until(exact, 40, what="usage is what the registry holds")
    assert await system.usage(workspace) > 6_000_000 + 4_000_000
    status = await system.get("/v1/status")
    assert status["dead_letters"]["open"] == 0 if "open" in status["dead_letters"] else True
