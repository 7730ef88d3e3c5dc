"""What a manifest refers to, from an event's references or from its document. PURE."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ledger.facts import EMPTY_BLOB, Content
from registry.kinds import artifact_type_of, is_cache_type
from registry.media_types import (
    IMAGE_TYPES,
    MANIFEST_TYPES,
    descriptor_kind,
    manifest_kind,
)
from registry.models import Descriptor, ParsedManifest

RULES: Final = 1
"""The rules by which this module reads. Another number has what was read before read again."""

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
    named = _index_entries(references) if kind == "index" else _parts(references)
    if named is None:
        return None
    config_media_type = references[0].media_type if media_type in IMAGE_TYPES else ""
    layers = references[1:] if config_media_type else references
    return Content(
        blobs=named[0],
        children=named[1],
        config_media_type=_cache_type(references) if kind == "index" else config_media_type,
        artifact_type=artifact_type_of(config_media_type, (r.media_type for r in layers), ""),
        rules=RULES,
    )


def undeclared(parsed: ParsedManifest) -> list[bytes]:
    """Blobs of a document whose declared size says nothing: storage has to be asked."""
    if parsed.kind != "image":
        return []
    return list(
        dict.fromkeys(
            item.digest
            for item in parsed.references
            if not _only_storage_knows(item) and not believable(item.digest, item.size)
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
    references = parsed.references
    named = _index_entries(references) if parsed.kind == "index" else _parts(references, stored)
    if named is None:
        return None
    config_media_type = parsed.config.media_type if parsed.config is not None else ""
    return Content(
        blobs=named[0],
        children=named[1],
        config_media_type=config_media_type or _cache_type(parsed.children),
        artifact_type=artifact_type_of(
            config_media_type,
            (layer.media_type for layer in parsed.layers),
            parsed.artifact_type or "",
        ),
        subject=parsed.subject,
        subject_known=True,
        rules=RULES,
    )


def may_be_manifests(content: Content | None) -> frozenset[bytes]:
    """What a manifest names and only storage can tell from a blob: no media type says that it is one."""
    if content is None or not content.children:
        return frozenset()
    return frozenset(content.children) - {digest for digest, size in content.blobs if size}


def _only_storage_knows(item: Descriptor) -> bool:
    """Whether a declared size says nothing of what the registry stores for a descriptor of an image."""
    return item.has_urls or item.media_type in MANIFEST_TYPES


Named = tuple[tuple[tuple[bytes, int], ...], tuple[bytes, ...]]
"""((digest, bytes of a blob; 0: only storage knows), …), and what may be a manifest; each digest once."""


def _index_entries(entries: Iterable[Descriptor]) -> Named:
    """Of an index, any of which may be a manifest.

    Only what is known as a blob by its media type has the size that it declares.
    """
    found: dict[bytes, int] = {}
    for item in entries:
        of_a_blob = descriptor_kind(item.media_type) == "blob" and not item.has_urls
        size = item.size if of_a_blob and believable(item.digest, item.size) else 0
        found[item.digest] = max(size, found.get(item.digest, 0))
    return tuple(found.items()), tuple(found)


def _cache_type(entries: Iterable[Descriptor]) -> str:
    """The media type of the entry that makes an index a build cache: it stands where a config would.

    With a manifest beside it the index is what that one is: an image, perhaps, that somebody runs.
    """
    types = [item.media_type for item in entries]
    if any(descriptor_kind(media_type) == "manifest" for media_type in types):
        return ""
    return next(filter(is_cache_type, types), "")


def _parts(
    descriptors: Iterable[Descriptor], stored: Mapping[bytes, int] = MappingProxyType({})
) -> Named | None:
    """Config and layers of an image; None when a size is missing that should be there.

    In one loop: it is the consumer's hottest.
    """
    blobs: dict[bytes, int] = {}
    children: dict[bytes, None] = {}
    for item in descriptors:
        digest, size = item.digest, item.size
        # As `_only_storage_knows`.
        if item.media_type in MANIFEST_TYPES:
            children[digest] = None
            size = 0
        elif item.has_urls:
            size = 0
        elif digest in stored:
            size = stored[digest]
        elif not 0 < size <= _LARGEST_BELIEVABLE and not believable(digest, size):
            return None
        if blobs.setdefault(digest, size) < size:
            blobs[digest] = size
    return tuple(blobs.items()), tuple(children)


def believable(digest: bytes, size: int) -> bool:
    """Whether a size in bytes can be that of a blob with this digest."""
    return 0 < size <= _LARGEST_BELIEVABLE or digest == EMPTY_BLOB
