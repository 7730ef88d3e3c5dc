"""Facts: what was learned about a registry, in the ledger's own words.

A fact comes from a notification or from an observation (an answer that a registry gave us). The
ledger is a function of the *set* of facts: order, duplicates and replays change nothing. Times are
integer nanoseconds since the epoch (UTC), digests are raw bytes, sizes are bytes.
"""

from typing import Final

import msgspec

Stamp = tuple[int, bytes]
"""When a fact happened: (nanoseconds, 16 bytes of the event's id). Compared as a pair, so that two
events of one nanosecond still have an order."""

NEVER: Stamp = (-1, b"")


EMPTY_BLOB: Final = bytes.fromhex(
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)
"""sha256 of nothing: the one blob whose size really is 0."""


def names_only(digest: bytes, declared: int) -> bool:
    """Whether a manifest only names a digest: nobody but storage can tell whether it is there as a blob.

    So it is with what has `urls`, and with what is called a manifest or has a media type that nobody
    knows. Where storage has spoken of it, it is held like any other blob.
    """
    return declared == 0 and digest != EMPTY_BLOB


class Content(msgspec.Struct, frozen=True, gc=False):
    """What a manifest refers to. It is fixed by the digest, so it never changes once known."""

    blobs: tuple[tuple[bytes, int], ...] = ()
    """(digest, declared size) of everything that it names, each digest once.

    0: it only names it (`names_only`), and holds it as far as storage has it.
    """
    children: tuple[bytes, ...] = ()
    """Digests of what may be manifests: all entries of an index, others by their media type."""
    config_media_type: str = ""
    """Of an index: that of an entry that makes it a build cache."""
    artifact_type: str = ""
    """`artifactType`; of what is packed like an image without being one what its layers say."""
    subject: bytes | None = None
    subject_known: bool = False
    """False while only `references` of an event are known: they never name the subject."""
    claimed_ns: int = -1
    """From 0 on: nothing was read yet, a platform said a size (`claims.py`); orders its claims."""
    rules: int = 0
    """By which rules it was read (`contents.RULES`); 0: before they were counted."""


class ManifestPushed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A manifest was put, by tag or by digest."""

    registry: str
    repository: str
    digest: bytes
    stamp: Stamp
    media_type: str
    size: int
    """Bytes of the manifest document."""
    tag: str | None = None
    content: Content | None = None
    """None when the event had no references: the size is pending."""
    arrived_ns: int = -1
    """When it arrived (nanoseconds), where its stamp is ahead of that or it comes with a `Ceiling`; else -1."""


class ManifestSeen(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The registry showed a manifest to us (reconciliation, settling): it exists, nobody told a push.

    Stamped by the registry's `Date`. `created_ns` is when the image says it was built, where that
    can be believed, and not before what the look knew otherwise: an estimate of its age. `named_ns` is
    when the tag came to name it, as far as the look knew: not before that moment.
    """

    registry: str
    repository: str
    digest: bytes
    stamp: Stamp
    media_type: str
    size: int
    tag: str | None = None
    content: Content | None = None
    created_ns: int | None = None
    named_ns: int | None = None
    arrived_ns: int = -1
    """See `ManifestPushed`."""
    put_back: bool = False
    """Whether we put it back: `named_ns` is the moment itself, and the push that this took is no news."""


class ManifestDeleted(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A manifest is gone for certain: we deleted it, or the registry answered that it has it no more."""

    registry: str
    repository: str
    digest: bytes
    stamp: Stamp
    arrived_ns: int = -1
    """See `ManifestPushed`."""


class DigestDeleted(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A registry's event of a delete: of a manifest, or of a blob with the same bytes. They look alike."""

    registry: str
    repository: str
    digest: bytes
    stamp: Stamp
    arrived_ns: int = -1
    """See `ManifestPushed`."""


class TagRemoved(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A tag was removed; the manifest it named stays."""

    registry: str
    repository: str
    tag: str
    stamp: Stamp
    arrived_ns: int = -1
    """See `ManifestPushed`."""


class ManifestPulled(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Somebody fetched the manifest (not ourselves)."""

    registry: str
    repository: str
    digest: bytes
    stamp: Stamp
    arrived_ns: int = -1
    """See `ManifestPushed`."""


class Ceiling(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The registry contradicted what is known of a manifest or a tag: of what had arrived by `arrived_ns`,
    stamps above this one are void (`ahead.py`). Its answer itself is a fact beside it.
    """

    registry: str
    repository: str
    stamp: Stamp
    """The `Date` of the answer."""
    arrived_ns: int
    """When the registry was asked, nanoseconds by Postgres's clock."""
    digest: bytes | None = None
    tag: str | None = None
    """One of the two."""


class ContentLearned(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The manifest was fetched by digest, verified and parsed."""

    registry: str
    repository: str
    digest: bytes
    media_type: str
    size: int
    content: Content


class ManifestDated(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A person said how old an image is. Of several the one that was said last counts."""

    registry: str
    repository: str
    digest: bytes
    stamp: Stamp
    """When it was said, by our clock: it is only ever compared with others of its kind."""
    dated_ns: int


class BlobStored(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Storage has spoken: this blob has this many bytes."""

    digest: bytes
    size: int
    registry: str = ""
    """Whose event told it; empty: the registry that is asked has answered so."""
    repository: str = ""
    """Where it was pushed or mounted to; empty when the answer was not about a repository."""
    asked_ns: int = -1
    """The `Date` of the registry's answer, nanoseconds: of several the newest counts."""


RepositoryFact = (
    ManifestPushed
    | ManifestSeen
    | ManifestDeleted
    | ManifestDated
    | DigestDeleted
    | TagRemoved
    | ManifestPulled
    | ContentLearned
    | Ceiling
    | BlobStored
)
"""A `BlobStored` is one when it names its repository."""
Fact = RepositoryFact

# For `isinstance` on the consumer's path: `A | B` in its place is built anew for every fact.
SIGNS: Final = (ManifestPushed, ManifestSeen)
"""Facts that tell that a manifest exists."""
OF_TAGS: Final = (*SIGNS, TagRemoved, Ceiling)
"""Facts that may be about a tag."""
