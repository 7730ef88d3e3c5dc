"""Histories of few tags and images, and when a tag came to name its digest, told naively."""

from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

from ledger.facts import (
    BlobStored,
    DigestDeleted,
    ManifestDeleted,
    ManifestPushed,
    ManifestSeen,
    RepositoryFact,
    TagRemoved,
)
from ledger.naming import Named
from tests.support.histories import IMAGES, OCI_IMAGE, stamp

REPOSITORY = "acme/api"
TAGS = ("1.8", "1.11")
NEVER = (-1, b"")
SECOND = 10**9
KINDS = ("push",) * 8 + ("seen", "seen", "back", "untag", "delete", "heard", "blob")


@st.composite
def namings(draw: st.DrawFn, *, longest: int = 30) -> list[RepositoryFact]:
    """Two tags on three images: pushed, pushed again, rolled back, looked at, removed, deleted, put back."""
    found: list[RepositoryFact] = []
    for number in range(draw(st.integers(1, longest))):
        # Looks are stamped in whole seconds; pushes are when they are.
        kind = draw(st.sampled_from(KINDS))
        moment = stamp(number * 3 * SECOND + (0 if kind in ("seen", "back") else 7))
        named = draw(st.sampled_from(IMAGES[:3]))[0]
        tag = draw(st.sampled_from((TAGS[0], *TAGS)))
        here = ("default", REPOSITORY)
        if kind == "push":
            found.append(ManifestPushed(*here, named, moment, OCI_IMAGE, 100, tag))
        elif kind == "seen":
            known = draw(st.none() | st.integers(0, number).map(lambda n: stamp(n * 3 * SECOND)[0]))
            found.append(ManifestSeen(*here, named, moment, OCI_IMAGE, 100, tag, named_ns=known))
        elif kind == "back":
            known = stamp(draw(st.integers(0, number)) * 3 * SECOND - SECOND)[0]
            seen = ManifestSeen(*here, named, moment, OCI_IMAGE, 100, tag, named_ns=known)
            found.append(msgspec.structs.replace(seen, put_back=True))
        elif kind == "untag":
            found.append(TagRemoved(*here, tag, moment))
        elif kind == "blob":
            found.append(BlobStored(named, 100, *here))
        else:
            deleted = ManifestDeleted if kind == "delete" else DigestDeleted
            found.append(deleted(*here, named, moment))
    return found


def named_by(facts: Sequence[RepositoryFact]) -> dict[str, Named]:
    """Each live tag, looked at with the whole set of facts at once."""
    found = {}
    for tag in TAGS:
        sets = sorted(
            {f for f in facts if isinstance(f, ManifestPushed | ManifestSeen) and f.tag == tag},
            key=lambda fact: fact.stamp,
        )
        if not sets:
            continue
        digest, newest = sets[-1].digest, sets[-1].stamp
        others = [fact.stamp for fact in sets if fact.digest != digest]
        untags = [f.stamp for f in facts if isinstance(f, TagRemoved) and f.tag == tag]
        # A delete that an event told counts for nothing where it may have been a blob's.
        blob = any(isinstance(f, BlobStored) and f.digest == digest for f in facts)
        kinds = ManifestDeleted if blob else (ManifestDeleted, DigestDeleted)
        deletes = [f.stamp for f in facts if isinstance(f, kinds) and f.digest == digest]
        barrier = max([NEVER, *others, *untags, *deletes])
        if newest <= barrier:
            continue
        run = [fact for fact in sets if fact.stamp > barrier]
        found[tag] = _of(run, max([NEVER, *others, *untags])[0])
    return found


def _of(run: Sequence[ManifestPushed | ManifestSeen], bound: int) -> Named:
    # The push that put it back is told within five seconds of that, before or after.
    back = [f for f in run if isinstance(f, ManifestSeen) and f.put_back]
    if back and back[0].stamp[0] < run[0].stamp[0] + 5 * SECOND:
        assert back[0].named_ns is not None
        return Named(back[0].named_ns)
    if isinstance(run[0], ManifestPushed):
        return Named(run[0].stamp[0])
    pushes = [fact.stamp[0] for fact in run if isinstance(fact, ManifestPushed)]
    # A look saw the push whose event came within five seconds of it.
    if pushes and pushes[0] < run[0].stamp[0] + 5 * SECOND:
        return Named(pushes[0])
    told = [f.named_ns for f in run if isinstance(f, ManifestSeen) and f.named_ns is not None]
    # It did by the end of the second in which the first look saw it.
    latest = run[0].stamp[0] + SECOND
    if max([bound, *told]) >= 0:
        return Named(max([bound, *told]), -1, latest)
    return Named(-1, pushes[0] if pushes else -1, latest)
