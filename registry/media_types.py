"""Media types of manifests and blobs, and what follows from them (pure)."""

from typing import Final, Literal

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT_MANIFEST: Final = "application/vnd.oci.artifact.manifest.v1+json"
ORAS_ARTIFACT_MANIFEST: Final = "application/vnd.cncf.oras.artifact.manifest.v1+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

BLOB: Final = "application/octet-stream"
"""What notifications call every blob, configs included."""

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"

IMAGE_TYPES: Final = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEX_TYPES: Final = frozenset({DOCKER_MANIFEST_LIST, OCI_INDEX})
ARTIFACT_TYPES: Final = frozenset({OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST})
SCHEMA1_TYPES: Final = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
IMAGE_CONFIG_TYPES: Final = frozenset({DOCKER_CONFIG, OCI_CONFIG})

ACCEPTED: Final = (DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, OCI_MANIFEST, OCI_INDEX)
"""Sent as Accept with every manifest request: with fewer, a registry silently answers another one."""

MANIFEST_TYPES: Final = IMAGE_TYPES | INDEX_TYPES | ARTIFACT_TYPES | SCHEMA1_TYPES

_BLOB_TYPES: Final = frozenset({BLOB, OCI_EMPTY, "application/vnd.docker.plugin.v1+json"})
_BLOB_FAMILIES: Final = (
    "application/vnd.oci.image.layer.",
    "application/vnd.oci.image.config.",
    "application/vnd.docker.image.rootfs.",
    "application/vnd.docker.container.image.",
    "application/vnd.buildkit.cacheconfig.",
)
"""What the names of layers and configs begin with, whatever their compression and version."""

ManifestKind = Literal["image", "index", "unknown"]
DescriptorKind = Literal["manifest", "blob", "unknown"]


def bare(media_type: str) -> str:
    """A Content-Type without its parameters, lower-case: `a/B; charset=utf-8` → `a/b`."""
    return media_type.partition(";")[0].strip().lower()


def manifest_kind(media_type: str) -> ManifestKind:
    """What a manifest of this (bare) media type is; artifact manifests are images without a config."""
    if media_type in IMAGE_TYPES or media_type in ARTIFACT_TYPES:
        return "image"
    if media_type in INDEX_TYPES:
        return "index"
    return "unknown"


def descriptor_kind(media_type: str) -> DescriptorKind:
    """What the (bare) media type of a descriptor says that it names, in whatever list it stands.

    `unknown`: one that nobody knows. Storage has the last word on all three.
    """
    if media_type in MANIFEST_TYPES:
        return "manifest"
    if media_type in _BLOB_TYPES or media_type.startswith(_BLOB_FAMILIES):
        return "blob"
    return "unknown"
