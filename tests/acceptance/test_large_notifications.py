"""Manifests whose notification is longer than a record: a real registry's, and counted to the byte."""

import hashlib
import json
import uuid

from registry.media_types import OCI_MANIFEST
from registry.push import Blob, build_image, build_layer, push_image
from tests.support.waiting import wait_until


async def test_a_manifest_whose_notification_is_too_long_is_counted_like_any_other(system):
    """Go escapes `<` sixfold: 2 MB in one annotation become 12 MB of notification, 3.9 MB become 23."""
    workspace = f"big{uuid.uuid4().hex[:6]}"
    stored: dict[bytes, int] = {}

    async def push(repository, image, tag):
        await push_image(system.registry, repository, image, tag)
        stored.update((blob.digest, len(blob.content)) for blob in (image.manifest, *image.blobs))

    for number, length in enumerate((2_000_000, 3_900_000)):
        layer = build_layer(f"{workspace}{number}", 50_000)
        noted = Blob(layer.content, layer.media_type, {"note": "<" * length})
        await push(f"{workspace}/api", build_image([noted]), f"1.{number}")
    # A manifest of many short layers: what its notification spells out in lines is short in it.
    image = build_image([build_layer(f"{workspace}many", 1000)])
    await push(f"{workspace}/many", image, "small")
    document = json.loads(image.manifest.content)
    one = {"digest": document["layers"][0]["digest"], "size": 1}
    document["layers"] = [one] * ((4 << 20) // (len(json.dumps(one)) + 2) - 10)
    many = json.dumps(document).encode()
    await system.registry.put_manifest(f"{workspace}/many", "huge", many, OCI_MANIFEST)
    stored[hashlib.sha256(many).digest()] = len(many)
    await push(f"{workspace}/next", image, "1")

    async def all_there():
        tags = {tag for item in await system.images(workspace) for tag in item["tags"]}
        return tags == {"1.0", "1.1", "small", "huge", "1"}

    await wait_until(all_there, 60, what="the pushes are recorded, the last one too")

    async def exact():
        return await system.usage(workspace) == sum(stored.values())

    await wait_until(exact, 60, what="usage is what the registry holds")
    assert sum(stored.values()) > 2_000_000 + 3_900_000 + 4_000_000
