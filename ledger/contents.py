"""What a manifest refers to, from an event's references or from its document. PURE."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ledger.facts import Content
from registry.media_types import IMAGE_TYPES, manifest_kind
from registry.models import Descriptor, ParsedManifest

_EMPTY_BLOB: Final = bytes.fromhex(
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)
"""sha256 of nothing: the one blob whose size really is 0."""

_LARGEST_BELIEVABLE: Final = 2**42
"""Bytes (4 TiB). A client may declare anything; what no storage backend takes in one blob is asked
of storage instead of being added up past 64 bits."""


def content_of_references(
    media_type: str, references: tuple[Descriptor, ...] | None
) -> Content | None:
    """What an event's references tell of a manifest; None when its size stays pending.

    Absent and empty references look alike from a registry that was not asked to include them, and
    a size of 0 is no size: both are read from the registry instead of being counted as nothing.
    """
    if not references:
        return None
    kind = manifest_kind(media_type)
    if kind == "unknown":
        return None
    if kind == "index":
        return Content(children=tuple(dict.fromkeys(child.digest for child in references)))
    blobs = _blobs(references)
    if blobs is None:
        return None
    return Content(
        blobs=blobs,
        config_media_type=references[0].media_type if media_type in IMAGE_TYPES else "",
    )


def undeclared(parsed: ParsedManifest) -> list[bytes]:
    """Blobs of a document whose declared size says nothing: storage has to be asked."""
    if parsed.kind != "image":
        return []
    return list(
        dict.fromkeys(
            descriptor.digest
            for descriptor in parsed.references
            if not descriptor.foreign and not believable(descriptor.digest, descriptor.size)
        )
    )


def content_of_manifest(
    parsed: ParsedManifest, stored: Mapping[bytes, int] = MappingProxyType({})
) -> Content | None:
    """What a fetched and verified document tells; None for formats that we do not read.

    `stored` has the sizes in bytes of those blobs whose declared one says nothing.
    """
    if parsed.kind == "unknown":
        return None
    blobs = _blobs(parsed.references, stored) if parsed.kind == "image" else ()
    if blobs is None:
        return None
    return Content(
        blobs=blobs,
        children=tuple(dict.fromkeys(child.digest for child in parsed.children)),
        config_media_type=parsed.config.media_type if parsed.config is not None else "",
        artifact_type=parsed.artifact_type or "",
        subject=parsed.subject,
        subject_known=True,
    )


def _blobs(
    descriptors: Iterable[Descriptor], stored: Mapping[bytes, int] = MappingProxyType({})
) -> tuple[tuple[bytes, int], ...] | None:
    """Config and layers, each digest once, foreign ones left out; None when a size is missing."""
    blobs: dict[bytes, int] = {}
    for item in descriptors:
        if item.foreign:
            continue
        digest, size = item.digest, item.size
        if digest in stored:
            size = stored[digest]
        elif not 0 < size <= _LARGEST_BELIEVABLE and not believable(digest, size):
            return None
        if blobs.setdefault(digest, size) < size:
            blobs[digest] = size
    return tuple(blobs.items())


def believable(digest: bytes, size: int) -> bool:
    """Whether a size in bytes can be that of a blob with this digest."""
    return 0 < size <= _LARGEST_BELIEVABLE or digest == _EMPTY_BLOB
