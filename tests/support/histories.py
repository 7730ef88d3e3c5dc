"""Random histories of a registry, and what must be true after them, told naively.

What a registry tells comes as the JSON of its notifications, read as the consumer reads it. The
reference here knows nothing of the ledger's code: it looks at the whole set of facts at once.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from consumer.translate import facts_of
from ledger.contents import content_of_references
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
from registry.models import Descriptor
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
ELSEWHERE = digest("elsewhere")
"""A layer with `urls`: in storage or not."""


class Named(NamedTuple):
    """What a manifest says about something."""

    digest: bytes
    media_type: str
    size: int
    urls: bool = False


NAMED: dict[bytes, tuple[Named, ...]] = {}
"""Manifest → what it names."""


def _manifest(
    name: str, media_type: str, size: int, *named: Named
) -> tuple[bytes, str, int, Content]:
    NAMED[digest(name)] = named
    content = content_of_references(
        media_type, tuple(Descriptor(d, size, kind, urls) for d, kind, size, urls in named)
    )
    assert content is not None
    return digest(name), media_type, size, content


def _layers(*blobs: tuple[bytes, int]) -> list[Named]:
    """The first as a config; repeats stay in."""
    found = [
        Named(blob, LAYER if number else CONFIG, size) for number, (blob, size) in enumerate(blobs)
    ]
    return [*found, *found[1:], Named(ELSEWHERE, FOREIGN, 77_000, urls=True)]


def _image(number: int, *blobs: int) -> tuple[bytes, str, int, Content]:
    layers = _layers(*((BLOBS[blob], BLOB_SIZES[BLOBS[blob]]) for blob in blobs))
    return _manifest(f"image {number}", OCI_IMAGE, 100 + number, *layers)


def _claiming(name: str, size: int, *blobs: tuple[bytes, int]) -> tuple[bytes, str, int, Content]:
    return _manifest(name, OCI_IMAGE, size, *_layers(*blobs))


IMAGES = (_image(0, 0, 1), _image(1, 1, 2), _image(2, 2, 3, 4), _image(3, 0, 5))


def _child(manifest: tuple[bytes, str, int, Content]) -> Named:
    return Named(manifest[0], manifest[1], 9)


# An index of two images, and an index of that index and another image.
_INDEX = _manifest("index 0", OCI_INDEX, 200, _child(IMAGES[0]), _child(IMAGES[1]))
INDEXES = (_INDEX, _manifest("index 1", OCI_INDEX, 201, _child(_INDEX), _child(IMAGES[2])))
# BuildKit's cache: an index of layers. And an index of everything, with a type that nobody knows, layers
# that are called manifests, and one that may live elsewhere.
_CACHE = _manifest(
    "cache", OCI_INDEX, 202,
    Named(BLOBS[0], "application/vnd.oci.image.layer.v1.tar+zstd", BLOB_SIZES[BLOBS[0]]),
    Named(BLOBS[3], LAYER, BLOB_SIZES[BLOBS[3]]),
    Named(BLOBS[5], "application/vnd.buildkit.cacheconfig.v0", BLOB_SIZES[BLOBS[5]]),
)  # fmt: skip
MIXED = (
    _CACHE,
    _manifest(
        "mixed", OCI_INDEX, 203,
        _child(IMAGES[3]), _child(_CACHE), Named(BLOBS[2], "application/x-nobody-knows", 13),
        Named(BLOBS[4], OCI_IMAGE, 19), Named(BLOBS[1], LAYER, BLOB_SIZES[BLOBS[1]]),
        Named(BLOBS[3], LAYER, 17_000, urls=True), Named(IMAGES[0][0], LAYER, 4000),
    ),
)  # fmt: skip
# What clients may claim: another size of a shared layer, a manifest as a layer, a wrong size of it, a layer
# as a manifest.
DISPUTED = (
    _claiming("liar", 110, (BLOBS[1], 1100), (BLOBS[4], 1), (BLOBS[5], BLOB_SIZES[BLOBS[5]])),
    _claiming("odd", 111, (BLOBS[1], 500), (IMAGES[0][0], 4000)),
    _manifest("sly", OCI_IMAGE, 112, Named(BLOBS[0], CONFIG, 7), Named(BLOBS[5], OCI_IMAGE, 1),
              Named(IMAGES[1][0], OCI_IMAGE, 1)),
)  # fmt: skip
# A signature of an image: only its document tells that.
REFERRER = _claiming("referrer", 120, (BLOBS[3], BLOB_SIZES[BLOBS[3]]))
SUBJECTS = {REFERRER[0]: IMAGES[0][0]}
MANIFESTS = (*IMAGES, *INDEXES, *MIXED, *DISPUTED, REFERRER)
# What may be uploaded as a blob: also what may live elsewhere, and a manifest's own bytes.
STORED_SIZES = {
    blob: (size, size + 90 * (blob != BLOBS[0])) for blob, size in BLOB_SIZES.items()
} | {
    ELSEWHERE: (70, 77),
    IMAGES[0][0]: (IMAGES[0][2],) * 2,
    IMAGES[3][0]: (IMAGES[3][2],) * 2,
}
KINDS = (
    "push", "push", "push", "push", "seen", "learned", "delete", "gone", "untag", "pull", "blob", "mount",
    "twin",
    "asked",
    "asked",
)  # fmt: skip


def stamp(moment: int) -> Stamp:
    return (1_700_000_000_000_000_000 + moment, hashlib.md5(str(moment).encode()).digest())


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


def references_of(manifest: bytes) -> list[dict[str, Any]]:
    """As a registry lists them: repeats stay in, and so does what it does not store."""
    return [
        {"mediaType": media_type, "digest": format_digest(named), "size": size}
        | ({"urls": ["https://elsewhere.example/layer"]} if urls else {})
        for named, media_type, size, urls in NAMED[manifest]
    ]


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
            target["references"] = references_of(named)
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
    blob = draw(st.sampled_from(tuple(STORED_SIZES)))
    stored = draw(st.sampled_from(STORED_SIZES[blob]))
    if kind == "asked":  # the registry's own answer, which outweighs what its events tell
        return BlobStored(blob, stored, asked_ns=draw(st.sampled_from((-1, stamp(moment)[0]))))
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
    """Each digest once a workspace: storage's word, else the document's size, else the largest claim.

    Nothing but storage's word counts what has `urls`, what is called a manifest (unless it exists as
    one), and what an index calls by a name that nobody knows.
    """
    described = [
        fact for fact in facts if isinstance(fact, ManifestPushed | ManifestSeen | ContentLearned)
    ]
    read = {(fact.repository, fact.digest) for fact in described if fact.content}
    types = {fact.digest: fact.media_type for fact in described}
    sizes = {fact.digest: fact.size for fact in described}
    stored: dict[bytes, int] = {}
    blobs = [fact for fact in facts if isinstance(fact, BlobStored)]
    for blob in {fact.digest for fact in blobs}:
        of_it = [fact for fact in blobs if fact.digest == blob]
        asked = [(fact.asked_ns, fact.size) for fact in of_it if not fact.registry]
        stored[blob] = max(asked)[1] if asked else max(fact.size for fact in of_it)
    documents: dict[str, dict[bytes, int]] = {}
    claims: dict[str, dict[bytes, int]] = {}
    for repository, manifest in manifests:
        workspace = mapped.get(repository) or pattern_workspace(repository)
        documents.setdefault(workspace, {})[manifest] = sizes[manifest]
        largest = claims.setdefault(workspace, {})
        for blob, media_type, size, urls in (
            NAMED[manifest] if (repository, manifest) in read else ()
        ):
            nobody_knows = types[manifest] == OCI_INDEX and "nobody" in media_type
            if urls or media_type in (OCI_IMAGE, OCI_INDEX) or nobody_knows:
                size = 0  # noqa: PLW2901 - a word that does not count
            if size or blob in stored:
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
