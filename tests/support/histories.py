"""Random histories of a registry, and what must be true after them, told naively.

What a registry tells comes as the JSON of its notifications, read as the consumer reads it. The
reference here knows nothing of the ledger's code: it looks at the whole set of facts at once.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st

from consumer.translate import facts_of
from ledger.facts import (
    BlobStored,
    Content,
    ContentLearned,
    DigestDeleted,
    Fact,
    ManifestDeleted,
    ManifestPushed,
    ManifestSeen,
    Stamp,
    TagRemoved,
)
from registry.names import format_digest
from registry.notifications import decode_event
from registry.timestamps import format_timestamp

REPOSITORIES = ("acme/api", "acme/web", "other/api", "single")
TAGS = ("1", "2", "latest")
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


BLOBS = tuple(digest(f"blob {number}") for number in range(6))
BLOB_SIZES = dict(zip(BLOBS, (7, 11, 13, 17, 19, 23), strict=True))


CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def _image(number: int, *blobs: int) -> tuple[bytes, str, int, Content]:
    content = Content(
        blobs=tuple((BLOBS[blob], BLOB_SIZES[BLOBS[blob]]) for blob in blobs),
        config_media_type=CONFIG,
    )
    return digest(f"image {number}"), OCI_IMAGE, 100 + number, content


def _claiming(name: str, size: int, *blobs: tuple[bytes, int]) -> tuple[bytes, str, int, Content]:
    return digest(name), OCI_IMAGE, size, Content(blobs=blobs, config_media_type=CONFIG)


IMAGES = (_image(0, 0, 1), _image(1, 1, 2), _image(2, 2, 3, 4), _image(3, 0, 5))
# An index of two images, and an index of that index and another image.
INDEXES = (
    (digest("index 0"), OCI_INDEX, 200, Content(children=(IMAGES[0][0], IMAGES[1][0]))),
    (digest("index 1"), OCI_INDEX, 201, Content(children=(digest("index 0"), IMAGES[2][0]))),
)
# What clients may claim: another size of a shared layer, a manifest as a layer, a wrong size of it.
DISPUTED = (
    _claiming("liar", 110, (BLOBS[1], 1100), (BLOBS[4], 1), (BLOBS[5], BLOB_SIZES[BLOBS[5]])),
    _claiming("odd", 111, (BLOBS[1], 500), (IMAGES[0][0], 4000)),
)
# A signature of an image: only its document tells that.
REFERRER = _claiming("referrer", 120, (BLOBS[3], BLOB_SIZES[BLOBS[3]]))
SUBJECTS = {REFERRER[0]: IMAGES[0][0]}
MANIFESTS = (*IMAGES, *INDEXES, *DISPUTED, REFERRER)
STORED_SIZES = {blob: (size, size + 90 * (blob != BLOBS[0])) for blob, size in BLOB_SIZES.items()}
KINDS = (
    "push", "push", "push", "push", "seen", "learned", "delete", "gone", "untag", "pull", "blob", "mount",
    "twin",
)  # fmt: skip


def stamp(moment: int) -> Stamp:
    return (1_800_000_000_000_000_000 + moment, hashlib.md5(str(moment).encode()).digest())


def told(moment: int, action: str, **target: Any) -> Fact:
    """What the consumer makes of a notification."""
    nanoseconds, identifier = stamp(moment)
    event = {
        "id": str(uuid.UUID(bytes=identifier)),
        "timestamp": format_timestamp(nanoseconds),
        "action": action,
        "target": target,
        "request": {"useragent": "docker/20.10"},
    }
    fact = facts_of("default", decode_event(json.dumps(event).encode()))
    assert fact is not None
    return fact


def references_of(content: Content) -> list[dict[str, Any]]:
    """As a registry lists them: repeats stay in, and so do foreign layers that it does not store."""
    if content.children:
        return [{"mediaType": OCI_IMAGE, "digest": format_digest(child), "size": 9}
                for child in content.children]  # fmt: skip
    listed = [
        {"mediaType": LAYER if number else CONFIG, "digest": format_digest(blob), "size": size}
        for number, (blob, size) in enumerate(content.blobs)
    ]
    elsewhere = {
        "mediaType": FOREIGN,
        "digest": format_digest(digest("elsewhere")),
        "size": 77_000,
        "urls": ["https://elsewhere.example/layer"],
    }
    return [*listed, *listed[1:], elsewhere]


@st.composite
def facts_at(draw: st.DrawFn, moment: int) -> Fact:
    """Whatever may be learned about the moment; events without references leave sizes pending."""
    repository = draw(st.sampled_from(REPOSITORIES))
    named, media_type, size, known = draw(st.sampled_from(MANIFESTS))
    kind = draw(st.sampled_from(KINDS))
    tag = draw(st.none() | st.sampled_from(TAGS))
    with_references = bool(draw(st.integers(0, 4)))
    document = msgspec.structs.replace(known, subject_known=True, subject=SUBJECTS.get(named))
    here = {"repository": repository, "digest": format_digest(named)}
    if kind in ("push", "pull"):
        target: dict[str, Any] = {**here, "mediaType": media_type, "size": size, "length": size}
        if with_references:
            target["references"] = references_of(known)
        return told(moment, kind, **target, **({"tag": tag} if tag else {}))
    if kind == "seen":
        built = draw(st.none() | st.integers(0, 1000))
        content = document if with_references else None
        return ManifestSeen(
            "default", repository, named, stamp(moment), media_type, size, tag, content, built
        )
    if kind == "learned":
        return ContentLearned("default", repository, named, media_type, size, document)
    empty = draw(st.sampled_from(({}, {"mediaType": "", "size": 0})))  # v2 and v3
    if kind == "delete":
        return told(moment, "delete", **here, **empty)
    if kind == "gone":
        return ManifestDeleted("default", repository, named, stamp(moment))
    if kind == "twin":  # the manifest's own bytes, as a blob
        target = {**here, "size": size, "mediaType": "application/octet-stream"}
        return told(moment, "push", **target)
    if kind == "untag":
        named_tag = draw(st.sampled_from(TAGS))
        return told(moment, "delete", repository=repository, tag=named_tag, **empty)
    blob = draw(st.sampled_from(BLOBS))
    stored = draw(st.sampled_from(STORED_SIZES[blob]))
    target = {"repository": repository, "digest": format_digest(blob), "size": stored}
    if kind == "mount":
        target["fromRepository"] = draw(st.sampled_from(REPOSITORIES))
    action = "push" if kind == "blob" else kind
    return told(moment, action, mediaType="application/octet-stream", **target)


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
    twins = {(f.repository, f.digest) for f in everything if isinstance(f, BlobStored)}
    deletes = [
        fact
        for fact in everything
        if isinstance(fact, ManifestDeleted)
        # It may have been the blob's: only an answer of the registry counts.
        or (isinstance(fact, DigestDeleted) and (fact.repository, fact.digest) not in twins)
    ]
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


def _last_delete(
    deletes: list[ManifestDeleted | DigestDeleted], repository: str, named: bytes
) -> Stamp:
    return max(
        (fact.stamp for fact in deletes if (fact.repository, fact.digest) == (repository, named)),
        default=(-1, b""),
    )
