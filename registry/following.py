"""Tags that name what their manifest belongs to: the one grammar of them. PURE.

- `sha256-<hex>` with anything behind a dot (`.sig`, `.att`, `.sbom`) names a digest: cosign, and the tag
  of a referrers index in registries without the referrers API. Such an index's tag has room for the
  first 64 digits only, others write all of a longer digest.
- `1.4-sbom` names another tag, by convention. It is taken for that only where the other tag exists and
  what carries it is no image (`may_follow`). A tag of the first form names no tag: beside
  `sha256-<hex>.sig` there may be `sha256-<hex>`, which belongs to the same digest.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from registry.kinds import ATTACHED, Kind

DIGEST_TAG: Final = (
    "^(sha256-[0-9a-f]{64}|sha384-[0-9a-f]{64}([0-9a-f]{32})?|sha512-[0-9a-f]{64}([0-9a-f]{64})?)"
    "([.][A-Za-z0-9_.-]+)?$"
)
"""A tag that names a digest, for Python and for Postgres."""

_DIGEST_TAG: Final = re.compile(DIGEST_TAG.removesuffix("$") + r"\Z")
_DIGEST_BYTES: Final = {"sha256": 32, "sha384": 48, "sha512": 64}
_PREFIX_BYTES: Final = 32
_CONVENTION: Final = re.compile(
    r"(.+)[-.](?:sbom|spdx|cyclonedx|cdx|sig|signature|att|attestation|provenance|vex)", re.ASCII
)

Subject = tuple[int, bytes]
"""(length of a digest, its first 32 bytes): what a tag has room for."""


def subject_of_tag(tag: str) -> Subject | None:
    """What a tag such as `sha256-<hex>.sig` says it belongs to; None for a tag that people chose."""
    if tag[:3] != "sha" or _DIGEST_TAG.match(tag) is None:
        return None
    return _DIGEST_BYTES[tag[:6]], bytes.fromhex(tag[7 : 7 + 2 * _PREFIX_BYTES])


def subject_of(digest: bytes) -> Subject:
    """A digest as a tag names it."""
    return len(digest), digest[:_PREFIX_BYTES]


def tags_named_by(tag: str) -> Iterator[str]:
    """Tags that a tag may name by convention, the closest first: `1.4-sbom-sig` → `1.4-sbom`, `1.4`."""
    if subject_of_tag(tag) is not None:
        return
    while (match := _CONVENTION.fullmatch(tag)) is not None:
        tag = match[1]
        yield tag


def all_tags_named_by(tags: Iterable[str]) -> list[str]:
    """Every tag that one of these may name by convention."""
    return [name for tag in tags for name in tags_named_by(tag)]


def may_follow(kind: Kind | None) -> bool:
    """Whether a manifest of this kind belongs to the image that its tag names by convention."""
    return kind is not None and (kind.name in ATTACHED or kind.name == "artifact")
