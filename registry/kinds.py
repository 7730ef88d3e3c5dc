"""What kind of thing a manifest is: an image that runs, a build cache, a chart, an SBOM … PURE.

Nobody says it in one place. An image has an image's config and an image's layers; what is packed like
one says by its layers what it is (cosign's signatures, ollama's models, buildx's attestations), other
artifacts by `artifactType` or the type of their config, and an index by its entries. No notification
carries `artifactType`, so what has a config of no meaning is not known before its document was read.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, get_args

from registry.media_types import (
    ARTIFACT_TYPES,
    BLOB,
    IMAGE_CONFIG_TYPES,
    IMAGE_TYPES,
    INDEX_TYPES,
    OCI_EMPTY,
    SCHEMA1_TYPES,
)

KindName = Literal[
    "image", "cache", "chart", "signature", "attestation", "sbom", "wasm", "artifact"
]
KIND_NAMES: Final[tuple[KindName, ...]] = get_args(KindName)


class Kind(NamedTuple):
    """A kind; of an `artifact` also its type: `artifactType`, else the config's or a layer's."""

    name: KindName
    type: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.type}".rstrip()


IMAGE: Final = Kind("image")
CACHE: Final = Kind("cache")

ATTACHED: Final = frozenset({"signature", "attestation", "sbom"})
"""Kinds that are about something else and stand for nothing by themselves."""

# What stands between the marks of a media type, the first that is found.
_WORDS: Final[tuple[tuple[KindName, str], ...]] = (
    ("cache", r"vnd\.buildkit\.cache(?:config)?"),
    ("chart", r"vnd\.cncf\.helm"),
    ("sbom", r"sbom|spdx|cyclonedx|syft"),
    ("signature", r"simplesigning|signature|cosign\.artifact\.sig"),
    ("attestation", r"in-toto|dsse|attestations?|provenance|sigstore\.bundle|artifact\.att"),
    ("wasm", r"wasm"),
)
_BY_TYPE: Final = tuple(
    (name, re.compile(rf"(?:^|[/.+-])(?:{words})(?:[/.+-]|$)", re.ASCII | re.IGNORECASE))
    for name, words in _WORDS
)
_CACHE_TYPES: Final = "application/vnd.buildkit.cache"
_IMAGE_LAYERS: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.")
"""What the media types of an image's layers begin with, whatever packs them."""


def kind_of_type(media_type: str) -> Kind:
    """The kind that an `artifactType`, or the media type of a config or layer, stands for."""
    for name, pattern in _BY_TYPE:
        if pattern.search(media_type):
            return Kind(name)
    return Kind("artifact", media_type)


def is_cache_type(media_type: str) -> bool:
    """Whether something of this media type makes what names it a build cache."""
    return media_type.startswith(_CACHE_TYPES)


def artifact_type_of(config_type: str, layer_types: Iterable[str], declared: str) -> str:
    """What an image manifest says that it is when it is no image; "" for an image, or not said.

    `declared` is its `artifactType`. With an image's config and only layers that no image has, these
    say it.
    """
    if config_type not in IMAGE_CONFIG_TYPES:
        return declared
    first = ""
    for layer in layer_types:
        if _is_image_layer(layer):
            return ""
        first = first or layer
    # Without any layer it is an empty image.
    return first and (declared or first)


def _is_image_layer(media_type: str) -> bool:
    return media_type in ("", BLOB) or media_type.startswith(_IMAGE_LAYERS)


def own_kind(
    media_type: str, config_type: str, artifact_type: str, *, document_read: bool
) -> Kind | None:
    """The kind of a manifest by what it says itself; None while that is not known.

    `artifact_type` as `artifact_type_of` tells it; `config_type` of an index: that of an entry that
    makes it a cache. An index that says nothing of itself is what its entries are (`kind_of_index`).
    """
    if media_type in SCHEMA1_TYPES:
        return IMAGE
    if is_cache_type(config_type):
        return CACHE
    if artifact_type:
        return kind_of_type(artifact_type)
    if media_type in INDEX_TYPES:
        return None
    if config_type in IMAGE_CONFIG_TYPES:
        return IMAGE
    if media_type not in IMAGE_TYPES | ARTIFACT_TYPES:
        return Kind("artifact", media_type) if document_read else None
    if (
        config_type not in ("", OCI_EMPTY)
        and (known := kind_of_type(config_type)).name != "artifact"
    ):
        return known
    return Kind("artifact", config_type or media_type) if document_read else None


def kind_of_index(
    entries: Iterable[Kind | None], media_type: str, *, document_read: bool
) -> Kind | None:
    """The kind of an index that says nothing of itself, from those of its entries that exist.

    It is an image as soon as one of them is (attestations and unknown ones may stand beside it), else
    what the first of them is. Of one without any only the document tells that it is nothing else.
    """
    kinds = list(entries)
    if IMAGE in kinds:
        return IMAGE
    if None in kinds:
        return None
    if not kinds:
        return Kind("artifact", media_type) if document_read else None
    return next(
        (kind for kind in kinds if kind is not None and kind.name not in ATTACHED), kinds[0]
    )
