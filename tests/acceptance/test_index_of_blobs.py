"""BuildKit's cache on real processes: an index of layers, told by real notifications of both registries."""

import uuid

import msgspec

from registry.media_types import OCI_INDEX
from registry.names import format_digest
from registry.push import Blob, build_layer, push_manifest, upload_blob


async def test_a_cache_of_layers_is_counted_from_its_notifications(system):
    workspace = f"cache-{uuid.uuid4().hex[:8]}"
    layers = [build_layer(f"{workspace} {number}", 400_000) for number in range(3)]
    config = Blob(workspace.encode(), "application/vnd.buildkit.cacheconfig.v0")
    blobs = [*layers, config]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [blob.descriptor for blob in blobs],
    }
    index = Blob(msgspec.json.encode(document), OCI_INDEX)
    for blob in blobs:
        await upload_blob(system.registry, f"{workspace}/api", blob.content)
    await push_manifest(system.registry, f"{workspace}/api", index, "buildcache")
    await system.settled()
    size = sum(len(blob.content) for blob in blobs)
    assert await system.usage(workspace) == size + len(index.content)
    [item] = await system.images(workspace)
    assert item["digest"] == format_digest(index.digest)
    assert (item["size_bytes"], item["unique_bytes"]) == (size, size + len(index.content))
