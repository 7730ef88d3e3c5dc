"""Random histories of a registry, and what must be true after them, told naively.

The reference here knows nothing of the ledger's code: it looks at the whole set of facts at once.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st

from ledger.facts import (
    BlobStored,
    Content,
    ContentLearned,
    Fact,
    ManifestDeleted,
    ManifestPulled,
    ManifestPushed,
    ManifestSeen,
    Stamp,
    TagRemoved,
)

REPOSITORIES = ("acme/api", "acme/web", "other/api", "single")
TAGS = ("1", "2", "latest")
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


BLOBS = tuple(digest(f"blob {number}") for number in range(6))
BLOB_SIZES = dict(zip(BLOBS, (7, 11, 13, 17, 19, 23), strict=True))


def _image(number: int, *blobs: int) -> tuple[bytes, str, int, Content]:
    content = Content(blobs=tuple((BLOBS[blob], BLOB_SIZES[BLOBS[blob]]) for blob in blobs))
    return digest(f"image {number}"), OCI_IMAGE, 100 + number, content


IMAGES = (_image(0, 0, 1), _image(1, 1, 2), _image(2, 2, 3, 4), _image(3, 0, 5))
# An index of two images, and an index of that index and another image.
INDEXES = (
    (digest("index 0"), OCI_INDEX, 200, Content(children=(IMAGES[0][0], IMAGES[1][0]))),
    (digest("index 1"), OCI_INDEX, 201, Content(children=(digest("index 0"), IMAGES[2][0]))),
)
# What clients may claim: another size of a shared layer, a manifest as a layer, a wrong size of it.
DISPUTED = (
    (
        digest("liar"),
        OCI_IMAGE,
        110,
        Content(blobs=((BLOBS[1], 1100), (BLOBS[4], 1), (BLOBS[5], BLOB_SIZES[BLOBS[5]]))),
    ),
    (digest("odd"), OCI_IMAGE, 111, Content(blobs=((BLOBS[1], 500), (IMAGES[0][0], 4000)))),
)
MANIFESTS = (*IMAGES, *INDEXES, *DISPUTED)
STORED_SIZES = {blob: (size, size + 90 * (blob != BLOBS[0])) for blob, size in BLOB_SIZES.items()}
KINDS = (
    "push", "push", "push", "push", "seen", "learned", "delete", "untag", "pull", "blob", "blob",
)  # fmt: skip


def stamp(moment: int) -> Stamp:
    return (1_800_000_000_000_000_000 + moment, hashlib.md5(str(moment).encode()).digest())


@st.composite
def facts_at(draw: st.DrawFn, moment: int) -> Fact:
    """Whatever may be learned about the moment; events without references leave sizes pending."""
    repository = draw(st.sampled_from(REPOSITORIES))
    named, media_type, size, known = draw(st.sampled_from(MANIFESTS))
    kind = draw(st.sampled_from(KINDS))
    tag = draw(st.none() | st.sampled_from(TAGS))
    content = known if draw(st.integers(0, 4)) else None
    document = msgspec.structs.replace(known, subject_known=True)
    here = ("default", repository, named, stamp(moment))
    if kind == "push":
        return ManifestPushed(*here, media_type, size, tag, content)
    if kind == "seen":
        built = draw(st.none() | st.integers(0, 1000))
        return ManifestSeen(*here, media_type, size, tag, document if content else None, built)
    if kind == "learned":
        return ContentLearned("default", repository, named, media_type, size, document)
    if kind == "delete":
        return ManifestDeleted(*here)
    if kind == "untag":
        return TagRemoved("default", repository, draw(st.sampled_from(TAGS)), stamp(moment))
    if kind == "pull":
        return ManifestPulled(*here)
    blob = draw(st.sampled_from(BLOBS))
    return BlobStored(blob, draw(st.sampled_from(STORED_SIZES[blob])))


@st.composite
def histories(draw: st.DrawFn, *, longest: int = 25) -> list[Fact]:
    """Facts in the order in which they happened, each at a moment of its own."""
    return [draw(facts_at(moment)) for moment in range(draw(st.integers(1, longest)))]


@st.composite
def deliveries(draw: st.DrawFn, facts: Sequence[Fact]) -> list[list[Fact]]:
    """The same facts out of order, each up to five times, cut into batches anywhere."""
    repeated = [fact for fact in facts for _ in range(draw(st.integers(1, 5)))]
    shuffled = draw(st.permutations(repeated))
    batches: list[list[Fact]] = []
    rest = list(shuffled)
    while rest:
        cut = draw(st.integers(1, len(rest)))
        batches.append(rest[:cut])
        rest = rest[cut:]
    return batches


@dataclass
class Truth:
    """What a registry with this history holds."""

    manifests: set[tuple[str, bytes]] = field(default_factory=set)
    tags: dict[tuple[str, str], bytes] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)


def pattern_workspace(repository: str) -> str:
    return repository.split("/", maxsplit=1)[0] if "/" in repository else "_"


def truth_of(facts: Iterable[Fact], mapped: Mapping[str, str] | None = None) -> Truth:
    """Look at the whole set of facts: order plays no part. `mapped`: repository → workspace."""
    everything = list(facts)
    truth = Truth()
    pushes = [fact for fact in everything if isinstance(fact, ManifestPushed | ManifestSeen)]
    deletes = [fact for fact in everything if isinstance(fact, ManifestDeleted)]
    untags = [fact for fact in everything if isinstance(fact, TagRemoved)]
    for push in pushes:
        if push.stamp > _last_delete(deletes, push.repository, push.digest):
            truth.manifests.add((push.repository, push.digest))
    for repository in {push.repository for push in pushes}:
        for tag in TAGS:
            sets = [push for push in pushes if (push.repository, push.tag) == (repository, tag)]
            if not sets:
                continue
            newest = max(sets, key=lambda push: push.stamp)
            untagged = max(
                (fact.stamp for fact in untags if (fact.repository, fact.tag) == (repository, tag)),
                default=(-1, b""),
            )
            if (
                (repository, newest.digest) in truth.manifests
                and newest.stamp > untagged
                and newest.stamp > _last_delete(deletes, repository, newest.digest)
            ):
                truth.tags[repository, tag] = newest.digest
    truth.usage = _usage(everything, truth.manifests, mapped or {})
    return truth


def _usage(
    facts: list[Fact], manifests: set[tuple[str, bytes]], mapped: Mapping[str, str]
) -> dict[str, int]:
    """Each digest once a workspace: storage's word, else the document's size, else the largest claim."""
    described = [
        fact for fact in facts if isinstance(fact, ManifestPushed | ManifestSeen | ContentLearned)
    ]
    contents = {(fact.repository, fact.digest): fact.content for fact in described if fact.content}
    sizes = {fact.digest: fact.size for fact in described}
    stored: dict[bytes, int] = {}
    for fact in facts:
        if isinstance(fact, BlobStored):
            stored[fact.digest] = max(fact.size, stored.get(fact.digest, 0))
    documents: dict[str, dict[bytes, int]] = {}
    claims: dict[str, dict[bytes, int]] = {}
    for repository, named in manifests:
        workspace = mapped.get(repository) or pattern_workspace(repository)
        documents.setdefault(workspace, {})[named] = sizes[named]
        largest = claims.setdefault(workspace, {})
        if content := contents.get((repository, named)):
            for blob, size in content.blobs:
                largest[blob] = max(size, largest.get(blob, 0))
    return {
        workspace: sum(
            stored.get(member, size)
            for member, size in (claims[workspace] | documents[workspace]).items()
        )
        for workspace in documents
    }


def _last_delete(deletes: list[ManifestDeleted], repository: str, named: bytes) -> Stamp:
    return max(
        (fact.stamp for fact in deletes if (fact.repository, fact.digest) == (repository, named)),
        default=(-1, b""),
    )
