"""What other clients than `docker push` leave in a registry, in the shapes that they give it."""

import json

from registry.media_types import OCI_CONFIG, OCI_INDEX
from registry.push import Blob, Image, build_artifact, build_image, build_layer

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"


def build_cache(name: str, size: int) -> Image:
    """BuildKit's registry cache as an image manifest (its default from 0.21 on)."""
    return build_artifact([build_layer(name, size)], config=_cache_config(name))


def build_cache_index(name: str, *sizes: int) -> tuple[Blob, list[Blob]]:
    """BuildKit's registry cache before that: an index whose entries are layers; and these."""
    blobs = [build_layer(f"{name}-{number}", size) for number, size in enumerate(sizes)]
    blobs.append(_cache_config(name))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [blob.descriptor for blob in blobs],
    }
    return Blob(json.dumps(document).encode(), OCI_INDEX), blobs


def _cache_config(name: str) -> Blob:
    return Blob(json.dumps({"layers": [], "records": [], "name": name}).encode(), CACHE_CONFIG)


def build_sbom(name: str, size: int = 100, artifact_type: str = "application/spdx+json") -> Image:
    """As `oras push` leaves it: a config of no meaning, `artifactType`, no subject."""
    document = json.dumps({"name": name, "fill": "x" * size}).encode()
    return build_artifact([Blob(document, artifact_type)], artifactType=artifact_type)


def build_chart(name: str) -> Image:
    """As `helm push` leaves it."""
    return build_artifact(
        [
            Blob(
                build_layer(name, 500).content,
                "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            )
        ],
        config=Blob(
            json.dumps({"name": name, "version": "1"}).encode(),
            "application/vnd.cncf.helm.config.v1+json",
        ),
    )


def build_signature(name: str) -> Image:
    """As `cosign sign` left it before bundles: an image's config and a layer of its own type."""
    return build_artifact(
        [Blob(name.encode(), "application/vnd.dev.cosign.simplesigning.v1+json")],
        config=Blob(b'{"architecture":"","os":""}', OCI_CONFIG),
    )


def build_kaniko_layer(name: str, size: int) -> tuple[str, Image]:
    """A layer as kaniko and buildah keep it: an ordinary image under a key as its tag; and the key."""
    layer = build_layer(name, size)
    return layer.digest.hex(), build_image([layer])
