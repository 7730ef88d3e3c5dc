"""Random histories of a registry, and what must be true after them, told naively.

The reference here knows nothing of the ledger's code: it looks at the whole set of facts at once.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from ledger.facts import (
    BlobStored,
    Content,
    Fact,
    ManifestDeleted,
    ManifestPulled,
    ManifestPushed,
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
MANIFESTS = (*IMAGES, *INDEXES)


def stamp(moment: int) -> Stamp:
    return (1_800_000_000_000_000_000 + moment, hashlib.md5(str(moment).encode()).digest())


@st.composite
def histories(draw: st.DrawFn, *, longest: int = 25) -> list[Fact]:
    """Facts in the order in which they happened, each at a moment of its own."""
    facts: list[Fact] = []
    for moment in range(draw(st.integers(1, longest))):
        repository = draw(st.sampled_from(REPOSITORIES))
        named, media_type, size, content = draw(st.sampled_from(MANIFESTS))
        kind = draw(st.sampled_from(("push", "push", "push", "delete", "untag", "pull", "blob")))
        if kind == "push":
            tag = draw(st.none() | st.sampled_from(TAGS))
            facts.append(
                ManifestPushed(
                    "default", repository, named, stamp(moment), media_type, size, tag, content
                )
            )
        elif kind == "delete":
            facts.append(ManifestDeleted("default", repository, named, stamp(moment)))
        elif kind == "untag":
            tag = draw(st.sampled_from(TAGS))
            facts.append(TagRemoved("default", repository, tag, stamp(moment)))
        elif kind == "pull":
            facts.append(ManifestPulled("default", repository, named, stamp(moment)))
        else:
            blob = draw(st.sampled_from(BLOBS))
            facts.append(BlobStored(blob, BLOB_SIZES[blob]))
    return facts


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


def truth_of(facts: Iterable[Fact]) -> Truth:
    """Look at the whole set of facts: order plays no part."""
    everything = list(facts)
    truth = Truth()
    pushes = [fact for fact in everything if isinstance(fact, ManifestPushed)]
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
    contents = {push.digest: push for push in pushes}
    held: dict[str, dict[bytes, int]] = {}
    for repository, named in truth.manifests:
        workspace = repository.split("/")[0] if "/" in repository else "_"
        account = held.setdefault(workspace, {})
        account[named] = contents[named].size
        content = contents[named].content
        assert content is not None
        account.update(dict(content.blobs))
    truth.usage = {workspace: sum(account.values()) for workspace, account in held.items()}
    return truth


def _last_delete(deletes: list[ManifestDeleted], repository: str, named: bytes) -> Stamp:
    return max(
        (fact.stamp for fact in deletes if (fact.repository, fact.digest) == (repository, named)),
        default=(-1, b""),
    )
