"""The convergent core: facts folded into manifests and tags. PURE.

Rules (accounting.md, "Convergence"): per manifest the newest push (or look at it) and the newest
delete; it exists when the first is newer. A delete that only an event tells counts at once, unless the
digest is known as a blob of its repository, too: then the event may be about that one, and only an
answer of the registry counts. Per tag the newest set and the newest untag; it is live when the manifest that
it names exists and the set is newer than that manifest's delete and than the untag. Every rule
takes a maximum, or keeps what is behind one, so the order of facts and their repetition do not matter.
"""

import msgspec

from ledger.ahead import SECOND_NS, SKEW_NS, Newest, Odd, void_of
from ledger.claims import better
from ledger.facts import (
    NEVER,
    OF_TAGS,
    SIGNS,
    BlobStored,
    Content,
    ContentLearned,
    DigestDeleted,
    ManifestDated,
    ManifestDeleted,
    ManifestPulled,
    ManifestPushed,
    ManifestSeen,
    RepositoryFact,
    Stamp,
    TagRemoved,
)
from ledger.naming import Named, Run, TagSet, behind, named, with_set

RACE_NS = 5_000_000_000
"""Two sets of one tag this close together (nanoseconds of event time) may hold in either order."""

ManifestKey = tuple[int, bytes]
"""(repository id, digest)"""
TagKey = tuple[int, str]
"""(repository id, tag)"""


class Manifest(msgspec.Struct, gc=False):
    """What is known of one manifest of one repository."""

    push: Stamp = NEVER
    seen: Stamp = NEVER
    """The newest look at it in the registry, by the registry's clock."""
    sure: Stamp = NEVER
    """The newest delete of it that is certain."""
    heard: Stamp = NEVER
    """The newest delete of its digest that an event told."""
    blob: bool = False
    """Whether its digest is, or may be, a blob of its repository as well."""
    media_type: str = ""
    size: int = 0
    """Bytes of the document."""
    content: Content | None = None
    created_ns: int = -1
    """When the image says it was built; -1: not known, or not to be believed."""
    dated: tuple[Stamp, int] = (NEVER, -1)
    """When a person last said how old it is, and what (nanoseconds); -1: nobody did."""
    pulled_ns: int = -1
    first_ns: int = -1
    """Its earliest push that is known, nanoseconds: no event can make it later."""
    left_ns: int = -1
    """When the last tag known to have left it did so, nanoseconds; -1: none ever left."""
    odd: Odd | None = None
    """What its stamps are worked out from, where something was told ahead of its time."""

    @property
    def delete(self) -> Stamp:
        """The newest delete that counts."""
        return self.sure if self.blob or self.heard <= self.sure else self.heard

    @property
    def present(self) -> bool:
        """Whether the manifest exists."""
        delete = self.delete
        return self.push > delete or self.seen > delete

    @property
    def asked_for(self) -> bool:
        """Whether only an event tells that it is gone: the registry is asked.

        Where it is present all the same, that delete is *unsettled*.
        """
        return self.heard > self.sure and self.sure < self.known < self.heard

    @property
    def known(self) -> Stamp:
        """The newest sign of it: a push, or a look."""
        return max(self.push, self.seen)


class Tag(msgspec.Struct, gc=False):
    """What is known of one tag of one repository."""

    digest: bytes | None = None
    set: Stamp = NEVER
    untag: Stamp = NEVER
    other: Stamp = NEVER
    """The newest set to another digest than this."""
    run: Run = ()
    """The sets to this digest behind that and behind the untag."""
    partial: bool = False
    """Whether an earlier release wrote it, so that what was before its newest set then is not known."""
    more: bool = False
    """Whether the ledger keeps sets of the run that are not here (`store.py`)."""

    odd: Odd | None = None
    """As of a manifest."""

    def named(self, manifest: Manifest) -> Named:
        """When it came to name its digest, given the manifest it names."""
        return named(behind(self.run, manifest.delete), (self.other, self.untag))

    def live(self, manifest: Manifest | None) -> bool:
        """Whether the tag answers, given the manifest it names."""
        return (
            manifest is not None
            and manifest.present
            and self.set > self.untag
            and self.set > manifest.delete
        )


class State(msgspec.Struct):
    """The part of the ledger that some facts touch. Whatever is absent was never heard of."""

    manifests: dict[ManifestKey, Manifest]
    tags: dict[TagKey, Tag]
    blobs: set[ManifestKey] = set()
    """What is known as a blob of its repository, as far as it matters."""
    unsure: dict[int, int] = {}
    """Repositories whose older blobs nobody kept: any digest of theirs may be one. A delete up to this
    time (nanoseconds) counts as it did."""
    skew_ns: int = SKEW_NS
    """How far ahead of its arrival a stamp is believed."""
    doubted: set[ManifestKey] = set()
    """Manifests of which something was told ahead of its time: the registry is asked."""
    raced: set[TagKey] = set()
    """Tags that were set to two digests within `RACE_NS`, or by a claim: events cannot tell what holds."""

    def may_be_blob(self, key: ManifestKey) -> bool:
        """Whether a digest is, or may be, a blob of its repository."""
        return key in self.blobs or key[0] in self.unsure


def manifest_key(repository_id: int, fact: RepositoryFact) -> ManifestKey | None:
    """The manifest a fact is about, or None."""
    if isinstance(fact, TagRemoved) or fact.digest is None:
        return None
    return (repository_id, fact.digest)


def tag_key(repository_id: int, fact: RepositoryFact) -> TagKey | None:
    """The tag a fact is about, or None."""
    if isinstance(fact, OF_TAGS) and fact.tag:
        return (repository_id, fact.tag)
    return None


def fold(state: State, repository_id: int, fact: RepositoryFact) -> None:
    """Take one fact into the state."""
    if isinstance(fact, SIGNS):
        _exists(state, repository_id, fact)
    elif isinstance(fact, ManifestDeleted):
        _newer(state, (repository_id, fact.digest), "sure", fact)
    elif isinstance(fact, DigestDeleted):
        slot = "sure" if fact.stamp[0] <= state.unsure.get(repository_id, -1) else "heard"
        _newer(state, (repository_id, fact.digest), slot, fact)
    elif isinstance(fact, TagRemoved):
        key = (repository_id, fact.tag)
        tag = _tag(state, key)
        if tag.odd is not None or fact.arrived_ns >= 0:
            tag.odd = (tag.odd or odd_of(tag)).taking(
                "untag", fact.stamp, fact.arrived_ns, None, state.skew_ns
            )
            work_out(tag, state.skew_ns)
            state.raced.add(key)
        elif fact.stamp > tag.untag:
            tag.untag = fact.stamp
            tag.run = behind(tag.run, fact.stamp)
            _left(state, repository_id, tag.digest, fact.stamp)
    elif isinstance(fact, ManifestPulled):
        manifest = _manifest(state, (repository_id, fact.digest))
        # When exactly something was pulled ahead of its time decides nothing: by its arrival at the latest.
        at = fact.stamp[0] if fact.arrived_ns < 0 else fact.arrived_ns
        manifest.pulled_ns = max(manifest.pulled_ns, at)
    elif isinstance(fact, ManifestDated):
        manifest = _manifest(state, (repository_id, fact.digest))
        manifest.dated = max(manifest.dated, (fact.stamp, fact.dated_ns))
    elif isinstance(fact, ContentLearned):
        key_learned = (repository_id, fact.digest)
        _manifest(state, key_learned)
        _describe(state, key_learned, fact.media_type, fact.size, fact.content)
    elif isinstance(fact, BlobStored):
        blob = (repository_id, fact.digest)
        state.blobs.add(blob)
        if (known := state.manifests.get(blob)) is not None:
            known.blob = True
    else:
        item = (
            _tag(state, (repository_id, fact.tag))
            if fact.tag is not None
            else _manifest(state, (repository_id, fact.digest or b""))
        )
        item.odd = (item.odd or odd_of(item)).under(void_of(fact))
        work_out(item, state.skew_ns)


def _exists(state: State, repository_id: int, fact: ManifestPushed | ManifestSeen) -> None:
    manifest = _manifest(state, (repository_id, fact.digest))
    # A fact that comes again must not move anything, not even the hint when a tag left.
    is_news = fact.stamp > manifest.known
    _newer(
        state,
        (repository_id, fact.digest),
        "push" if isinstance(fact, ManifestPushed) else "seen",
        fact,
    )
    if isinstance(fact, ManifestSeen):
        manifest.created_ns = max(
            manifest.created_ns, -1 if fact.created_ns is None else fact.created_ns
        )
    else:
        ns = fact.stamp[0]
        if 0 <= fact.arrived_ns < ns:
            ns = fact.arrived_ns
        if not 0 <= manifest.first_ns <= ns:
            manifest.first_ns = ns
    _describe(state, (repository_id, fact.digest), fact.media_type, fact.size, fact.content)
    if fact.tag is None:
        return
    key = (repository_id, fact.tag)
    tag = _tag(state, key)
    if tag.odd is not None or fact.arrived_ns >= 0:
        _set_odd(state, repository_id, key, fact)
        return
    raced = tag.digest is not None and abs(fact.stamp[0] - tag.set[0]) < RACE_NS
    claimed = fact.content is not None and fact.content.claimed_ns >= 0
    if tag.digest != fact.digest and (raced or claimed):
        state.raced.add(key)
    if fact.stamp > tag.set:
        if tag.digest != fact.digest:
            _left(state, repository_id, tag.digest, fact.stamp)
            tag.other, tag.run, tag.partial = tag.set, (), False
        tag.set, tag.digest = fact.stamp, fact.digest
    elif tag.digest != fact.digest:
        if is_news:  # the move away was heard before the move here
            _left(state, repository_id, fact.digest, tag.set)
        tag.other = max(tag.other, fact.stamp)
        tag.run = behind(tag.run, tag.other)
    if tag.digest == fact.digest and fact.stamp > max(tag.other, tag.untag):
        tag.run = with_set(tag.run, _tag_set(fact))
    if tag.untag > fact.stamp and is_news:
        _left(state, repository_id, fact.digest, tag.untag)


def _tag_set(fact: ManifestPushed | ManifestSeen) -> TagSet:
    if isinstance(fact, ManifestPushed):
        return TagSet(fact.stamp, fact.stamp[0], pushed=True)
    known = -1 if fact.named_ns is None else fact.named_ns
    return TagSet(fact.stamp, known, pushed=fact.put_back and known >= 0)


def _newer(
    state: State,
    key: ManifestKey,
    slot: str,
    fact: ManifestPushed | ManifestSeen | ManifestDeleted | DigestDeleted,
) -> None:
    """Raise one of a manifest's stamps."""
    manifest = _manifest(state, key)
    if manifest.odd is None and fact.arrived_ns < 0:
        if fact.stamp > getattr(manifest, slot):
            setattr(manifest, slot, fact.stamp)
        return
    manifest.odd = (manifest.odd or odd_of(manifest)).taking(
        slot, fact.stamp, fact.arrived_ns, None, state.skew_ns
    )
    work_out(manifest, state.skew_ns)
    if fact.stamp > getattr(manifest, slot) or fact.stamp < max(manifest.known, manifest.heard):
        state.doubted.add(key)


def _set_odd(
    state: State, repository_id: int, key: TagKey, fact: ManifestPushed | ManifestSeen
) -> None:
    """A set of a tag of which something was told ahead: where it does not win, or is cut, it is asked for."""
    tag = state.tags[key]
    before = tag.digest
    tag.odd = (tag.odd or odd_of(tag)).taking(
        "set", fact.stamp, fact.arrived_ns, fact.digest, state.skew_ns
    )
    work_out(tag, state.skew_ns)
    if tag.digest != fact.digest or fact.stamp > tag.set:
        state.raced.add(key)
    if before != tag.digest:
        _left(state, repository_id, before, tag.set)


def only_set(tag: Tag) -> Run:
    """The run of a tag of which one set is known. Looks are stamped in whole seconds, pushes are not."""
    if tag.digest is None or tag.set <= tag.untag:
        return ()
    pushed = tag.set[0] % SECOND_NS != 0
    return (TagSet(tag.set, tag.set[0] if pushed else -1, pushed),)


_SLOTS = {Manifest: ("push", "seen", "sure", "heard"), Tag: ("set", "untag")}


def odd_of(item: Manifest | Tag) -> Odd:
    """Of what had only ordinary stamps so far."""
    digest = item.digest if isinstance(item, Tag) else None
    return Odd(
        {
            slot: Newest(getattr(item, slot), digest if slot == "set" else None)
            for slot in _SLOTS[type(item)]
            if getattr(item, slot) > NEVER
        }
    )


def work_out(item: Manifest | Tag, skew_ns: int) -> None:
    """The stamps that follow from all that is kept."""
    if item.odd is None:
        return
    for slot in _SLOTS[type(item)]:
        newest = item.odd.newest(slot, skew_ns)
        setattr(item, slot, newest.stamp)
        if isinstance(item, Tag) and slot == "set":
            item.digest = newest.digest
    if isinstance(item, Tag):
        # The sets before are not kept one by one: it names its digest since the newest.
        item.other, item.run = NEVER, only_set(item)


def _describe(
    state: State,
    key: ManifestKey,
    media_type: str,
    size: int,
    content: Content | None,
) -> None:
    """What is told of a manifest. A digest fixes all of it, so who has read its document is right.

    Of what events tell differently order plays no part, and the document is asked for.
    """
    manifest = state.manifests[key]
    known = manifest.content
    if known is not None and known.subject_known:
        if content is None or not content.subject_known:
            return
    elif content is not None and content.subject_known:
        manifest.media_type, manifest.size, manifest.content = media_type, size, content
        return
    elif manifest.size and _differs(manifest, media_type, size, content):
        state.doubted.add(key)
    manifest.media_type = max(manifest.media_type, media_type)
    manifest.size = max(manifest.size, size)
    if content is not None and better(content, manifest.content):
        manifest.content = content


def _differs(manifest: Manifest, media_type: str, size: int, content: Content | None) -> bool:
    """Whether a manifest is told to be something else than was told before; a claim is nobody's reading."""
    known = manifest.content
    return (
        (size > 0 and size != manifest.size)
        or bool(media_type and manifest.media_type and media_type != manifest.media_type)
        or (
            content is not None
            and known is not None
            and content.claimed_ns < 0
            and known.claimed_ns < 0
            and content.rules == known.rules
            and content != known
        )
    )


def _left(state: State, repository_id: int, digest: bytes | None, stamp: Stamp) -> None:
    if digest is not None and (manifest := state.manifests.get((repository_id, digest))):
        manifest.left_ns = max(manifest.left_ns, stamp[0])


def _manifest(state: State, key: ManifestKey) -> Manifest:
    manifest = state.manifests.get(key)
    if manifest is None:
        manifest = state.manifests[key] = Manifest(blob=state.may_be_blob(key))
    return manifest


def _tag(state: State, key: TagKey) -> Tag:
    tag = state.tags.get(key)
    if tag is None:
        tag = state.tags[key] = Tag()
    return tag
