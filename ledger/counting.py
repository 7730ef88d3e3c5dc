"""Bytes: reference counts per (workspace, digest) and the usage they add up to. PURE.

Usage changes by exactly the sizes of the digests whose count goes 0 → 1 or 1 → 0, or whose size
becomes better known. It always equals a recount from the manifests.
"""

from collections.abc import Mapping

import msgspec

from ledger.claims import is_pseudo_blob
from ledger.facts import names_only
from ledger.fold import Manifest


class Holding(msgspec.Struct, gc=False):
    """What one workspace holds of one digest."""

    refs: int = 0
    """Existing manifests of the workspace that contain the digest (a manifest contains itself)."""
    names: int = 0
    """Those of them that only name it (`facts.names_only`). None once storage has spoken of it as a blob:
    then they hold it."""
    size: int = 0
    """Bytes that count: what storage said, else the largest size that a manifest declares."""
    stored: bool = False
    """Whether storage has spoken."""
    mixed: bool = False
    """Whether manifests declared different sizes: the largest must be sought when one goes."""
    released: bool = False
    """Whether the last reference went in this change."""
    saved: bool = False
    """Whether the ledger has it already."""

    @property
    def holders(self) -> int:
        """Manifests that hold it, not only by name."""
        return self.refs - self.names

    @property
    def counted(self) -> int:
        """Bytes in the workspace's usage."""
        return self.size if self.refs > self.names else 0


class Mismatch(msgspec.Struct, frozen=True):
    """A manifest declared another size than storage has."""

    digest: bytes
    declared: int
    stored: int


class Change(msgspec.Struct):
    """What some facts change in one workspace's holdings."""

    refs: dict[bytes, int] = msgspec.field(default_factory=dict)
    names: dict[bytes, int] = msgspec.field(default_factory=dict)
    """How many of them only name the digest."""
    declared: dict[bytes, int] = msgspec.field(default_factory=dict)
    """The largest size that newly counted manifests declare."""
    disputed: dict[bytes, set[int]] = msgspec.field(default_factory=dict)
    """All of these sizes, where there is more than one."""
    documents: dict[bytes, int] = msgspec.field(default_factory=dict)
    """Sizes of manifest documents, said by the registry itself."""
    let_go: set[bytes] = msgspec.field(default_factory=set)
    """What manifests that ceased to exist contained."""
    documents_gone: set[bytes] = msgspec.field(default_factory=set)
    """Manifests that ceased to exist in a repository: their word on their own size may be gone."""

    held: dict[bytes, Holding] = msgspec.field(default_factory=dict)
    """The holdings as they became; known once the change was applied."""
    gained: dict[bytes, int] = msgspec.field(default_factory=dict)
    """Digest → bytes that the workspace did not hold before; known once the change was applied."""

    def add(self, digest: bytes, contribution: Mapping[bytes, int]) -> None:
        """A manifest begins to exist (or its content becomes known)."""
        refs, declared = self.refs, self.declared
        for member, size in contribution.items():
            refs[member] = refs.get(member, 0) + 1
            if member == digest:
                self.documents[member] = size
            elif size == 0 and names_only(member, size):  # few: a call for those alone
                self.names[member] = self.names.get(member, 0) + 1
            elif declared.setdefault(member, size) != size:
                self.disputed.setdefault(member, {declared[member]}).add(size)
                declared[member] = max(size, declared[member])

    def remove(self, digest: bytes, contribution: Mapping[bytes, int]) -> None:
        """A manifest ceases to exist."""
        self.documents_gone.add(digest)
        for member, size in contribution.items():
            self.refs[member] = self.refs.get(member, 0) - 1
            self.let_go.add(member)
            if member != digest and names_only(member, size):
                self.names[member] = self.names.get(member, 0) - 1

    def unconfirmed(self, digest: bytes) -> bool:
        """Whether storage has not spoken of a blob that is counted, or named, anew. The change was applied."""
        if self.names.get(digest, 0) > 0 and self.held[digest].names:
            return self.held[digest].holders == 0
        return digest in self.declared and not self.held[digest].stored


def contribution(digest: bytes, manifest: Manifest) -> dict[bytes, int]:
    """Digest → size of everything that an existing manifest makes a workspace hold."""
    members = dict(manifest.content.blobs) if manifest.content is not None else {}
    members[digest] = manifest.size
    return members


class Counted(msgspec.Struct):
    """The outcome of a change for one workspace."""

    usage_delta: int
    mismatches: list[Mismatch]
    doubted: list[bytes]
    """Manifests whose document has another size than storage is said to have."""
    recount: list[bytes]
    """Digests whose largest declared size has to be sought among the manifests that remain."""


def count(holdings: dict[bytes, Holding], change: Change, stored: Mapping[bytes, int]) -> Counted:
    """Apply a change to the holdings it touches (absent ones are empty).

    `stored` has the sizes that storage said for any of the digests.
    """
    delta = 0
    mismatches: list[Mismatch] = []
    recount: list[bytes] = []
    doubted: list[bytes] = []
    # Nothing goes, and everybody agrees on the size: so it is with nearly every digest.
    special = {*change.disputed, *change.documents, *change.let_go, *change.names}
    for digest, difference in change.refs.items():
        holding = holdings.get(digest)
        if digest not in special:
            size = change.declared[digest]
            told = stored.get(digest, size) == size
            if holding is None and told:
                holdings[digest] = Holding(difference, size=size, stored=digest in stored)
                change.gained[digest] = size
                delta += size
                continue
            if (
                holding is not None
                and told
                and holding.size == size
                and holding.refs > holding.names
            ):
                holding.refs += difference
                holding.stored = holding.stored or digest in stored
                holding.mixed = holding.mixed and not holding.stored
                continue
        if holding is None:
            holding = holdings[digest] = Holding()
        before = holding.counted
        had, named = holding.holders, holding.refs
        holding.refs += difference
        if digest not in stored:
            holding.names += change.names.get(digest, 0)
        has = holding.holders
        declared = change.declared.get(digest)
        sizes = change.disputed.get(digest) or (() if declared is None else (declared,))
        document = change.documents.get(digest)
        if document == 0 and had > 0:
            document = None  # nobody has read it here: what another repository knows of it stays
        truth = stored.get(digest, document)
        if document and truth != document:
            doubted.append(digest)
        if document is not None and had > 0 and holding.size != document and digest not in stored:
            recount.append(digest)  # another repository of the workspace may have read it
        if truth is not None:
            mismatches.extend(Mismatch(digest, size, truth) for size in sizes if size != truth)
            holding.size, holding.stored, holding.mixed = truth, True, False
        elif holding.stored and had > 0:
            mismatches.extend(
                Mismatch(digest, size, holding.size) for size in sizes if size != holding.size
            )
        elif declared is not None:
            known = {*sizes, holding.size} if had > 0 else sizes
            holding.mixed = (holding.mixed and had > 0) or len(known) > 1
            holding.size, holding.stored = max(known), False
        if has == 0:
            holding.mixed = False
        elif (holding.mixed and digest in change.let_go) or (
            truth is None and digest in change.documents_gone
        ):
            # Something that contained it went, too: the largest declaration may have gone with it,
            # or a manifest's own word on its size (clients may name a manifest as a layer).
            recount.append(digest)
        # What was only claimed waits for no garbage collection, and what was only named is not there.
        holding.released = (
            named > 0 and holding.refs == 0 and holding.size > 0 and not is_pseudo_blob(digest)
        )
        if had <= 0 < has:
            change.gained[digest] = holding.size
        delta += holding.counted - before
    change.held = holdings
    return Counted(delta, mismatches, doubted, recount)


def learn_size(holding: Holding, size: int) -> int:
    """Storage says how large a held digest is; returns the change of usage in bytes."""
    before = holding.counted
    holding.size, holding.stored, holding.mixed, holding.names = size, True, False, 0
    return holding.counted - before
