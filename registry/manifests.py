"""Manifest documents → `registry.models.ParsedManifest` (pure).

What a manifest declares comes from whoever pushed it: the registry checks only that what it refers
to exists. Hostile documents end in ManifestError, never in another exception.
"""

import binascii
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from registry.media_types import (
    ARTIFACT_TYPES,
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    DOCKER_SCHEMA1_SIGNED,
    IMAGE_CONFIG_TYPES,
    SCHEMA1_TYPES,
    bare,
    manifest_kind,
)
from registry.models import MAX_SIZE, Descriptor, ParsedManifest
from registry.names import InvalidDigest, parse_digest
from registry.timestamps import InvalidTimestamp, parse_timestamp

_OLDEST_BELIEVABLE: Final = datetime(2000, 1, 1, tzinfo=UTC)


class ManifestError(ValueError):
    """A manifest document that cannot be read. The message says why."""


class _Descriptor(msgspec.Struct, rename=lambda name: name.replace("_", "")):
    digest: str | None = None
    size: int | None = None
    media_type: str | None = None
    urls: list[str] | None = None


class _Manifest(msgspec.Struct, rename=lambda name: name.replace("_", "")):
    media_type: str | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    blobs: list[_Descriptor] | None = None
    subject: _Descriptor | None = None
    artifact_type: str | None = None


class _Platform(msgspec.Struct):
    os: str | None = None
    architecture: str | None = None


class _ForPlatform(msgspec.Struct):
    digest: str | None = None
    platform: _Platform | None = None


class _Platforms(msgspec.Struct):
    manifests: list[_ForPlatform] | None = None


class _Config(msgspec.Struct):
    created: str | None = None


class _Layer1(msgspec.Struct):
    blob_sum: str | None = msgspec.field(default=None, name="blobSum")


class _Manifest1(msgspec.Struct):
    layers: list[_Layer1] = msgspec.field(default_factory=list, name="fsLayers")


class _Signature(msgspec.Struct):
    protected: str


class _Signed(msgspec.Struct):
    signatures: list[_Signature]


class _Protected(msgspec.Struct):
    format_length: int = msgspec.field(name="formatLength")
    format_tail: str = msgspec.field(name="formatTail")


_SAYS_NOTHING: Final = frozenset(
    {"application/json", "application/octet-stream", "binary/octet-stream", "text/plain"}
)
"""Content types of servers that do not know what a manifest is."""

_config_decoder: Final = msgspec.json.Decoder(_Config)


def parse_manifest(body: bytes, media_type: str = "", otherwise: str = "") -> ParsedManifest:
    """Read a manifest document of the media type that the registry answered (its Content-Type).

    Where that says nothing of manifests the document's own counts, then `otherwise` (what its event
    called it). A schema 1 image tells no sizes: those of its layers are 0. A media type that we do
    not read gives kind `unknown`. Raises ManifestError when the document is not what its media type
    says.
    """
    media_type = bare(media_type)
    if media_type in _SAYS_NOTHING:
        media_type = ""
    if media_type in SCHEMA1_TYPES:
        return _schema1(body, media_type)
    if media_type and manifest_kind(media_type) == "unknown":
        return ParsedManifest(media_type=media_type, kind="unknown")
    try:
        document = msgspec.convert(_folded(msgspec.json.decode(body)), _Manifest)
    except RecursionError:
        raise ManifestError("manifest is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise ManifestError(f"manifest is not of its format: {error}") from None
    except msgspec.DecodeError as error:
        raise ManifestError(f"manifest is not JSON: {error}") from None
    media_type = media_type or bare(document.media_type or "") or bare(otherwise)
    kind = manifest_kind(media_type)
    try:
        if kind == "index":
            return _index(document, media_type)
        if kind == "image":
            return _image(document, media_type)
    except InvalidDigest as error:
        raise ManifestError(f"manifest refers to something by a bad digest: {error}") from None
    return ParsedManifest(media_type=media_type, kind="unknown")


def attestations(body: bytes) -> frozenset[bytes]:
    """Children of an index that are for no platform: BuildKit marks what describes others so."""
    try:
        document = msgspec.json.decode(body, type=_Platforms)
        return frozenset(
            parse_digest(child.digest or "")
            for child in document.manifests or ()
            if child.platform is not None
            and (child.platform.os, child.platform.architecture) == ("unknown", "unknown")
        )
    except (ValueError, RecursionError):
        return frozenset()


def signed_payload(body: bytes) -> bytes:
    """What a signed schema 1 manifest's digest is of: the document without its signatures.

    Raises ManifestError.
    """
    try:
        signature = msgspec.json.decode(body, type=_Signed).signatures[0]
        protected = msgspec.json.decode(_unbase64(signature.protected), type=_Protected)
        tail = _unbase64(protected.format_tail)
    except (ValueError, IndexError, RecursionError, binascii.Error) as error:
        raise ManifestError(f"schema 1 manifest is not signed as it should be: {error}") from None
    if not 0 <= protected.format_length <= len(body):
        raise ManifestError("schema 1 manifest is not signed as it should be: its length is wrong")
    return body[: protected.format_length] + tail


def _unbase64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _schema1(body: bytes, media_type: str) -> ParsedManifest:
    # Only the payload is what the digest vouches for.
    payload = signed_payload(body) if media_type == DOCKER_SCHEMA1_SIGNED else body
    try:
        document = msgspec.json.decode(payload, type=_Manifest1)
        layers = tuple(
            Descriptor(parse_digest(layer.blob_sum or ""), 0) for layer in document.layers
        )
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"schema 1 manifest cannot be read: {error}") from None
    return ParsedManifest(media_type=media_type, kind="image", layers=layers)


def parse_config_created(body: bytes, now: datetime) -> datetime | None:
    """When an image says it was built, from its config blob; None unless that can be believed.

    Not believable: missing, unreadable, before 2000 (reproducible builds say 1970, Go's zero time
    the year 1) or after `now` (aware).
    """
    try:
        text = _config_decoder.decode(body).created
        nanoseconds = parse_timestamp(text or "")
    except (msgspec.DecodeError, RecursionError, InvalidTimestamp):
        return None
    created = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1_000)
    return created if _OLDEST_BELIEVABLE <= created <= now else None


def might_be_referrer(media_type: str, config_media_type: str | None, *, tagged: bool) -> bool:
    """Whether only the manifest itself can tell that it has no `subject`.

    No event and no list says it. Docker's formats have no subject. A tagged OCI image with an
    ordinary config is taken for what it looks like; untagged ones and indexes, other configs
    (also one not known: None) and artifact manifests have to be read.
    """
    if media_type in (DOCKER_MANIFEST, DOCKER_MANIFEST_LIST):
        return False
    if media_type in ARTIFACT_TYPES or not tagged:
        return True
    return manifest_kind(media_type) != "index" and config_media_type not in IMAGE_CONFIG_TYPES


def _folded(document: object) -> object:
    """The document with the keys that matter in lower case, as Go's decoder reads them.

    To a registry `Layers` is `layers`. Reading it more strictly would count such an image as empty.
    """
    if not isinstance(document, dict):
        return document
    fields = _folded_keys(document)
    for key in ("config", "subject"):
        fields[key] = _folded_keys(fields.get(key))
    for key in ("layers", "manifests", "blobs"):
        if isinstance(fields.get(key), list):
            fields[key] = [_folded_keys(item) for item in fields[key]]
    return fields


def _folded_keys(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    folded = {key.casefold(): item for key, item in value.items()}
    if len(folded) != len(value):
        raise ManifestError("manifest has a key twice in different spelling")
    return folded


def _image(document: _Manifest, media_type: str) -> ParsedManifest:
    if media_type in ARTIFACT_TYPES:
        if document.blobs is None and document.layers is not None:
            raise ManifestError("artifact manifest has layers in place of blobs")
        config, layers = None, document.blobs
    else:
        if document.config is None:
            raise ManifestError("image manifest has no config")
        config, layers = _descriptor(document.config), document.layers
    return ParsedManifest(
        media_type=media_type,
        kind="image",
        config=config,
        layers=tuple([_descriptor(layer) for layer in layers or ()]),
        subject=_subject(document),
        artifact_type=_artifact_type(document),
    )


def _index(document: _Manifest, media_type: str) -> ParsedManifest:
    if document.manifests is None and (document.layers or document.config):
        raise ManifestError("index has layers in place of manifests")
    return ParsedManifest(
        media_type=media_type,
        kind="index",
        children=tuple([_descriptor(child) for child in document.manifests or ()]),
        subject=_subject(document),
        artifact_type=_artifact_type(document),
    )


def _subject(document: _Manifest) -> bytes | None:
    return parse_digest(document.subject.digest or "") if document.subject else None


def _artifact_type(document: _Manifest) -> str | None:
    return _clean(document.artifact_type) or None


def _descriptor(wire: _Descriptor) -> Descriptor:
    media_type = _clean(wire.media_type)
    # Registries store manifests with impossible sizes. Refusing to read one would keep it out of
    # the books; storage's own word (a HEAD of the blob) replaces what was declared.
    size = min(max(wire.size or 0, 0), MAX_SIZE)
    return Descriptor(
        parse_digest(wire.digest or ""),
        size,
        media_type,
        bool(wire.urls),
    )


def _clean(text: str | None) -> str:
    return (text or "").replace("\x00", "�")
