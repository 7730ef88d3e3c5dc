"""Images told to a ledger without any registry: of any size, since nobody stores them."""

import hashlib
import time
import uuid
from collections.abc import Iterable

from ledger.facts import Content, ManifestPushed
from registry.media_types import OCI_CONFIG, OCI_MANIFEST

DOCUMENT_BYTES = 1000


def digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def pushed(
    repository: str,
    tag: str | None,
    layers: Iterable[tuple[str, int]],
    *,
    pushed_ns: int | None = None,
) -> ManifestPushed:
    """An image of layers (name, bytes); layers of one name and size are one blob everywhere."""
    blobs = tuple((digest(name, size), size) for name, size in layers)
    return ManifestPushed(
        "default",
        repository,
        digest(repository, tag, blobs),
        (time.time_ns() if pushed_ns is None else pushed_ns, uuid.uuid4().bytes),
        OCI_MANIFEST,
        DOCUMENT_BYTES,
        tag,
        Content(blobs=blobs, config_media_type=OCI_CONFIG),
    )
