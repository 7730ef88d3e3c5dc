"""Small real images, made in memory and pushed over the registry's API, for the demo and tests.

Everything follows from names and numbers that are passed in: the same arguments give the same
digests, and two images that name a layer alike share it.
"""

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from registry.address import same_registry
from registry.client import RegistryClient
from registry.errors import NotFound, RegistryRefused
from registry.media_types import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from registry.names import check_repository, format_digest
from registry.transport import Answer, Request, describe

OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_ENVELOPE_BYTES: Final = 200
"""About what an empty layer takes: the tar's header and end, compressed."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with the media type that a manifest gives them."""

    content: bytes
    media_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> bytes:
        """sha256 of the content."""
        return hashlib.sha256(self.content).digest()

    @property
    def descriptor(self) -> dict[str, Any]:
        """How a manifest refers to it."""
        descriptor: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": format_digest(self.digest),
            "size": len(self.content),
        }
        if self.annotations:
            descriptor["annotations"] = dict(self.annotations)
        return descriptor


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest and the blobs that it needs."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def digest(self) -> bytes:
        """Of the manifest."""
        return self.manifest.digest

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Config and layers."""
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True)
class Index:
    """An image index and the images, one a platform, that it names."""

    manifest: Blob
    images: tuple[Image, ...]

    @property
    def digest(self) -> bytes:
        """Of the index document."""
        return self.manifest.digest


def build_layer(name: str, size: int) -> Blob:
    """A layer of about `size` bytes as stored (within a per cent or 1 KiB), a gzipped tar.

    Its content follows from `name` and `size`, and holds one file that does not compress.
    """
    content = random.Random(f"{name}:{size}").randbytes(max(size - _ENVELOPE_BYTES, 0))  # noqa: S311 - not a secret
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(name="layer.bin")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return Blob(gzip.compress(archive.getvalue(), compresslevel=1, mtime=0), OCI_LAYER)


def build_image(
    layers: Sequence[Blob],
    *,
    created: str = "2026-01-01T00:00:00Z",
    architecture: str = "amd64",
    label: str = "",
) -> Image:
    """An OCI image of these layers. `label` makes an image with the same layers another one."""
    config = Blob(
        _json(
            {
                "created": created,
                "architecture": architecture,
                "os": "linux",
                "config": {"Labels": {"label": label}} if label else {},
                "rootfs": {"type": "layers", "diff_ids": [_diff_id(layer) for layer in layers]},
            }
        ),
        OCI_CONFIG,
    )
    return Image(_manifest_of(config, layers), config, tuple(layers))


def build_index(images: Mapping[str, Image]) -> Index:
    """An image index: architecture (`amd64`, `arm64`) → image."""
    children = [
        image.manifest.descriptor | {"platform": {"architecture": architecture, "os": "linux"}}
        for architecture, image in images.items()
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    return Index(Blob(_json(document), OCI_INDEX), tuple(images.values()))


def build_referrer(
    subject: Blob, *, artifact_type: str = "application/spdx+json", content: bytes = b"{}"
) -> Image:
    """An artifact (a bill of materials, a signature) whose `subject` is the manifest `subject`."""
    return build_artifact(
        (Blob(content, artifact_type),), artifactType=artifact_type, subject=subject.descriptor
    )


def build_artifact(
    layers: Sequence[Blob], *, config: Blob | None = None, **fields: object
) -> Image:
    """Anything packed as an image manifest: by default with the config of no meaning (`{}`).

    `fields` stand in the document as they are (`artifactType`, `subject`, `annotations`).
    """
    config = config or Blob(b"{}", OCI_EMPTY)
    return Image(_manifest_of(config, layers, **fields), config, tuple(layers))


async def push_image(
    client: RegistryClient, repository: str, image: Image, *tags: str, source: str | None = None
) -> None:
    """Push an image under `tags`, by digest when there is none.

    Blobs that the repository has are not sent again; with `source` they are mounted from there.
    """
    for blob in image.blobs:
        await _ensure_blob(client, repository, blob, source)
    await push_manifest(client, repository, image.manifest, *tags)


async def push_index(client: RegistryClient, repository: str, index: Index, *tags: str) -> None:
    """Push the children by digest, as clients do, then the index under `tags`."""
    for image in index.images:
        await push_image(client, repository, image)
    await push_manifest(client, repository, index.manifest, *tags)


async def push_manifest(
    client: RegistryClient, repository: str, manifest: Blob, *tags: str
) -> None:
    """Put a manifest whose blobs are there: once for each tag, by digest without tags."""
    for reference in tags or (manifest.digest,):
        await client.put_manifest(repository, reference, manifest.content, manifest.media_type)


async def upload_blob(client: RegistryClient, repository: str, content: bytes) -> None:
    """Upload a blob: POST for a place, PUT there."""
    start = _upload(client, repository)
    answer = await _expect(client, start, 202)
    try:
        place = same_registry(answer.headers.get("Location", ""), answer.url, client.base)
    except ValueError as error:
        raise RegistryRefused(f"upload: {error}", date=answer.date) from None
    finish = Request(
        method="PUT",
        url=place.update_query(digest=format_digest(hashlib.sha256(content).digest())),
        scope=start.scope,
        headers={"Content-Type": "application/octet-stream"},
        body=content,
    )
    await _expect(client, finish, 201)


async def mount_blob(client: RegistryClient, repository: str, digest: bytes, source: str) -> bool:
    """Take a blob over from the repository `source`; False when the registry will not."""
    request = _upload(
        client, repository, mount=format_digest(digest), **{"from": check_repository(source)}
    )
    return (await _expect(client, request, 201, 202)).status == 201


async def _ensure_blob(
    client: RegistryClient, repository: str, blob: Blob, source: str | None
) -> None:
    if source is not None and await mount_blob(client, repository, blob.digest, source):
        return
    try:
        await client.head_blob(repository, blob.digest)
    except NotFound:
        await upload_blob(client, repository, blob.content)


def _upload(client: RegistryClient, repository: str, **query: str) -> Request:
    return Request(
        method="POST",
        url=client.url(f"/v2/{check_repository(repository)}/blobs/uploads/", **query),
        scope=f"repository:{repository}:pull,push",
    )


async def _expect(client: RegistryClient, request: Request, *statuses: int) -> Answer:
    answer = await client.transport.send(request)
    if answer.status not in statuses:
        raise RegistryRefused(describe(request, answer), date=answer.date)
    return answer


def _manifest_of(config: Blob, layers: Sequence[Blob], **more: object) -> Blob:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        **more,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
    }
    return Blob(_json(document), OCI_MANIFEST)


def _diff_id(layer: Blob) -> str:
    return format_digest(hashlib.sha256(gzip.decompress(layer.content)).digest())


def _json(document: object) -> bytes:
    return msgspec.json.encode(document)
