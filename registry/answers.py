"""What a registry answered, as `registry.client` hands it on.

Digests are raw bytes, sizes bytes. `date` is the registry's own clock (aware, UTC), to the second,
None when the answer told none.
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest whose bytes are those of its digest. `media_type` is the registry's word for it."""

    body: bytes
    media_type: str
    digest: bytes
    date: datetime | None


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """Whether a manifest exists, and what is said of it. `size` of the document, where told."""

    exists: bool
    digest: bytes | None
    media_type: str
    size: int | None
    date: datetime | None


@dataclass(frozen=True, slots=True)
class TagState:
    """What a tag points at now; None when there is no such tag."""

    digest: bytes | None
    date: datetime | None


@dataclass(frozen=True, slots=True)
class Deletion:
    """A delete that holds. `existed` is False when it was gone already."""

    existed: bool
    date: datetime | None
