"""One repository, registry against ledger: what was missed, what moved, what is gone.

Tags are asked with a quiet conditional HEAD (304: nothing to do); what the ledger does not know is
fetched, an index's children with it; what it has and no tag names is asked for by digest.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeVar
from uuid import UUID

import msgspec

from ledger.ahead import AHEAD_NS
from ledger.contents import may_be_manifests
from ledger.facts import Fact, ManifestDeleted, ManifestSeen, TagRemoved, names_only
from ledger.reconcile import KnownManifest, KnownRepository
from quota.absence import Verdict, missing_children, not_named, tags_to_ask, verdict
from quota.looking import (
    MENDS_A_TAG,
    Blob,
    Look,
    UnreadConfigError,
    answered,
    contradicts,
    created_ns,
    each,
    look_at,
    only_this,
    require_date,
    seen,
    stamp_of,
    what_is,
)
from quota.pulling import Pull, PullCheck
from registry.answers import FetchedManifest, ManifestHead, TagState
from registry.client import RegistryClient
from registry.errors import NotFound, RegistryError
from registry.manifests import ManifestError
from registry.names import format_digest
from runtime.settings import DEFAULT_REGISTRY

_SAMPLE = 5
"""Images of unknown age that are read again in a pass, a repository each."""
AT_ONCE = 500
"""Tags or manifests asked for before what they told is recorded."""

Item = TypeVar("Item")


class Findings(msgspec.Struct):
    """What a part of a repository brought."""

    facts: list[Fact] = msgspec.field(default_factory=list)
    suspected: dict[str, datetime] = msgspec.field(default_factory=dict)
    """References that a look did not find for the first time, and when (the registry's clock)."""
    cleared: list[str] = msgspec.field(default_factory=list)
    """References that are suspected no longer."""
    problems: list[str] = msgspec.field(default_factory=list)
    """What could not be read, and why."""
    doubted: list[str] = msgspec.field(default_factory=list)
    """What is not as it should be, and no proof of anything."""
    elsewhere: list[str] = msgspec.field(default_factory=list)
    """For each config that was not read because it is in object storage: the host that it is at."""
    untold: list[bytes] = msgspec.field(default_factory=list)
    """What manifests only name, and the registry has without telling what storage has of it."""
    asked: int = 0
    """Tags and manifests that were looked at."""

    pulls: dict[tuple[str, bytes], Pull] = msgspec.field(default_factory=dict)
    """Whether images that hold places can be pulled."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to record."""
        return not (self.facts or self.suspected or self.cleared)


class _Fetched(msgspec.Struct, frozen=True):
    look: Look
    created: int | None
    """Nanoseconds; None: not known, or not to be believed."""


class RepositoryWalk:
    """Compares one repository; use once."""

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        known: KnownRepository,
        *,
        confirm_now: bool,
        may_forget: bool = True,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
        pulls: PullCheck,
        places: frozenset[bytes] = frozenset(),
    ) -> None:
        """`places`: manifests that hold an app's places; whether they can be pulled is asked of `pulls`."""
        self._client = client
        self._pulls = pulls
        self._places = places
        self._repository = repository
        self._known = known
        self._confirm_now = confirm_now
        self._may_forget = may_forget
        self._clock = clock
        self._new_id = new_id
        self._named: set[bytes] = set()
        """Manifests that tags of the registry name."""
        self._fetched: dict[bytes, int | None] = {}
        """What was fetched, and when it says it was built."""
        self._asked: set[bytes] = set()
        """What was asked for by digest: an index may name what is not there, in every part anew."""
        self._asked_storage: set[bytes] = set()
        """What images only name and storage was asked for as a blob."""
        self._gone: list[tuple[str, datetime]] = []
        """Tags of the ledger that the registry does not answer."""
        self._settled: set[str] = set()
        """References that were found, or forgotten."""
        self._suspected: set[str] = set()
        self._unclear: set[str] = set()
        """References that could not be asked for: what was suspected of them still is."""
        self.unread: set[str] = set()
        """Those and what could not be fetched: they may have been there before this pass."""

    async def findings(self) -> AsyncIterator[Findings]:
        """What differs, a part at a time. Raises RegistryError when the registry is away."""
        listed = {tag async for tag in self._client.list_tags(self._repository)}
        for tags in _parts(tags_to_ask(self._known, listed)):
            yield await self._tags(tags)
        absent: dict[bytes, datetime] = {}
        # That a tag names them was answered from a cache, perhaps: 304 proves no manifest.
        for digests in _parts(not_named(self._known, self._named - self._places)):
            yield await self._manifests(digests, absent)
        for digests in _parts(sorted(self._known.names)):
            found = Findings()
            await self._ask_storage(digests, found)
            yield found
        yield self._tags_gone(absent)

    # Tags

    async def _tags(self, tags: Sequence[str]) -> Findings:
        found = Findings(asked=len(tags))
        answers = await each(tags, lambda tag: self._ask_tag(tag, found))
        # Once an image, however many tags it has: reading a config costs a registry more than the
        # manifest does (distribution sets aside 4 MiB for it).
        looks = {look.digest: look for _tag, answer in answers if answer and (look := answer[1])}
        dated = await each(looks.values(), lambda look: self._dated(look, found))
        fetched = {look.digest: what for look, what in dated if what is not None}
        named: list[tuple[str, bytes, datetime]] = []
        for tag, answer in answers:
            if answer is None:
                continue
            state, look = answer
            if look is not None and look.digest not in fetched:
                self._unclear.add(tag)
                self.unread.add(tag)
                continue
            if state.digest is None:
                if tag in self._known.tags:
                    self._gone.append((tag, require_date(state.date)))
                continue
            self._named.add(state.digest)
            self._settled.add(tag)
            before = self._known.tags.get(tag)
            if before is None or before.digest != state.digest or tag in self._known.ahead:
                named.append((tag, state.digest, require_date(state.date)))
        # A moved tag was only asked with HEAD: what it names now may be unknown.
        wanted = {
            digest
            for _tag, digest, _date in named
            if digest not in self._known.manifests and digest not in self._fetched
        } - fetched.keys()
        wanted |= missing_children(self._known, {digest for _tag, digest, _date in named})
        wanted |= missing_children(
            self._known, self._named & {tag.digest for tag in self._known.tags.values()}
        )
        await self._fetch_all(wanted - self._fetched.keys(), fetched, found)
        await self._date_again(self._named - self._fetched.keys(), fetched, found)
        await self._ask_storage(self._names_of(fetched), found)
        self._tell(fetched, named, found)
        return found

    async def _ask_tag(self, tag: str, found: Findings) -> tuple[TagState, Look | None] | None:
        """What a tag names, and the manifest itself when nobody knew it."""
        known = self._known.tags.get(tag)
        try:
            if known is not None:
                return await self._client.tag_digest(self._repository, tag, known.digest), None
            # Nothing to compare with: one request tells the digest and the manifest.
            look = await look_at(await self._client.get_manifest(self._repository, tag))
            fresh = None if look.digest in self._known.manifests else look
            return TagState(look.digest, look.date), fresh
        except NotFound:
            # Listed, but not there (any more, or yet).
            found.doubted.append(
                f"{self._repository}:{tag} is listed, and not there: nobody can pull it; {MENDS_A_TAG}"
            )
            return None
        except (RegistryError, ManifestError) as error:
            await self._excuse(error, f"{self._repository}:{tag}", found, MENDS_A_TAG)
            self._unclear.add(tag)
            self.unread.add(tag)
            return None

    async def _date_again(
        self, named: set[bytes], fetched: dict[bytes, _Fetched], found: Findings
    ) -> None:
        """Read known images of unknown age again: a few, and all once one of them tells it.

        What was in the way may be mended: a redirect that is allowed now.
        """
        known = self._known.manifests
        undated = sorted(one for one in named & known.keys() if known[one].pushed_ns < 0)
        start = self._new_id().int % len(undated) if undated else 0
        undated = undated[start:] + undated[:start]
        for some in (undated[:_SAMPLE], undated[_SAMPLE:]):
            wanted = {
                one
                for digest in some
                for one in (digest, *known[digest].children)
                if one in known and known[one].pushed_ns < 0
            }
            await self._fetch_all(wanted - fetched.keys(), fetched, found)
            if all(fetched[one].created is None for one in wanted & fetched.keys()):
                break

    # Manifests

    async def _fetch_all(
        self, digests: set[bytes], fetched: dict[bytes, _Fetched], found: Findings
    ) -> None:
        """Fetch manifests and whatever they name, down to the last child."""
        wanted = digests | self._children_of(fetched.values()) - fetched.keys()
        while wanted := wanted - self._asked:
            self._asked |= wanted
            found.asked += len(wanted)
            answers = await each(sorted(wanted), lambda digest: self._fetch(digest, found))
            fresh = {digest: what for digest, what in answers if what is not None}
            fetched |= fresh
            wanted = self._children_of(fresh.values()) - fetched.keys()

    def _children_of(self, fetched: Iterable[_Fetched]) -> set[bytes]:
        return {
            child
            for what in fetched
            for child in may_be_manifests(what.look.content)
            if child not in self._known.manifests and child not in self._fetched
        }

    async def _fetch(self, digest: bytes, found: Findings) -> _Fetched | None:
        """A manifest that another one names; what turns out to be a blob is a fact of its own."""
        try:
            stored = await what_is(self._client, self._repository, digest)
            if isinstance(stored, Blob):
                _told(digest, stored, found)
            if not isinstance(stored, FetchedManifest):
                return None  # an index may name blobs, and what was never pushed
            look = await look_at(stored)
        except (RegistryError, ManifestError) as error:
            await self._excuse(error, f"{self._repository}@{format_digest(digest)}", found)
            self.unread.add(format_digest(digest))
            return None
        return await self._dated(look, found)

    async def _ask_storage(self, names: Iterable[bytes], found: Findings) -> None:
        """Ask for what images only name (layers with `urls`) as blobs: an event may have been lost."""
        wanted = set(names) - self._known.manifests.keys() - self._fetched.keys()
        wanted -= self._asked | self._asked_storage
        self._asked_storage |= wanted
        await each(sorted(wanted), lambda digest: self._ask_blob(digest, found))

    def _names_of(self, fetched: dict[bytes, _Fetched]) -> set[bytes]:
        """What images that nobody knew only name."""
        return {
            name
            for digest, what in fetched.items()
            if digest not in self._known.manifests and what.look.content is not None
            for name, size in what.look.content.blobs
            if names_only(name, size) and name not in fetched
        }

    async def _ask_blob(self, digest: bytes, found: Findings) -> None:
        try:
            size = await self._client.head_blob(self._repository, digest)
        except NotFound:
            return  # named, and stored elsewhere only
        except RegistryError as error:
            await self._excuse(error, f"{self._repository}@{format_digest(digest)}", found)
            return
        _told(digest, Blob(size), found)

    async def _dated(self, look: Look, found: Findings) -> _Fetched | None:
        if look.config is None:
            return _Fetched(look, None)
        try:
            created = await created_ns(
                self._client, self._repository, look.config, now=self._clock()
            )
        except UnreadConfigError as error:
            if error.elsewhere:
                found.elsewhere.append(error.elsewhere)
            else:
                found.problems.append(f"{self._repository}@{format_digest(look.digest)}: {error}")
            return _Fetched(look, None)
        except RegistryError as error:
            await self._excuse(error, f"{self._repository}@{format_digest(look.digest)}", found)
            self.unread.add(format_digest(look.digest))
            return None
        return _Fetched(look, created)

    async def _manifests(self, digests: Sequence[bytes], absent: dict[bytes, datetime]) -> Findings:
        """Ask by digest for what no tag names (untagged ones, an index's children) and what holds places."""
        # What a tag names has been looked at already.
        found = Findings(asked=sum(digest not in self._named for digest in digests))
        present: set[bytes] = set()
        places = [(self._repository, digest) for digest in digests if digest in self._places]
        known = {(self._repository, digest) for digest in self._known.manifests}
        found.pulls = await self._pulls.ask(places, known)
        for digest, head in await each(digests, lambda digest: self._head(digest, found)):
            if head is None or head.exists:
                if head is not None or digest in self._known.manifests:
                    present.add(digest)
                (self._unclear if head is None else self._settled).add(format_digest(digest))
                continue
            if digest not in self._known.manifests:
                continue  # gone, as the ledger says
            date = require_date(head.date)
            absent[digest] = date
            known_ns = self._known.manifests[digest].known_ns
            if self._judge(digest, date, known_ns, found) is Verdict.FORGET:
                stamp = stamp_of(date, self._new_id)
                fact = ManifestDeleted(DEFAULT_REGISTRY, self._repository, digest, stamp)
                found.facts += self._holding(fact)
        fetched: dict[bytes, _Fetched] = {}
        missing = missing_children(self._known, present) - self._fetched.keys()
        # A look at what is there after all, or told ahead of its time: its stamps are void.
        await self._fetch_all(missing | (present & self._known.ahead), fetched, found)
        await self._ask_storage(self._names_of(fetched), found)
        self._tell(fetched, [], found)
        return found

    async def _head(self, digest: bytes, found: Findings) -> ManifestHead | None:
        pull = found.pulls.get((self._repository, digest))
        # Only these say whether the manifest is there: of a failure it is asked by itself.
        if pull is not None and (pull.state == "whole" or pull.gone is not None):
            there = pull.gone is None
            return ManifestHead(
                exists=there, digest=digest, media_type="", size=None, date=pull.gone
            )
        try:
            return await self._client.head_manifest(self._repository, digest)
        except RegistryError as error:
            await self._excuse(error, f"{self._repository}@{format_digest(digest)}", found)
            return None

    async def _excuse(
        self, error: RegistryError | ManifestError, what: str, found: Findings, mend: str = ""
    ) -> None:
        """Go on without one thing that cannot be read, unless the registry itself is the trouble.

        A blob that storage lost is answered 500 for ever: it must not end every pass at its place.
        """
        await only_this(self._client, error)
        found.problems.append(f"{what}: {error}" + (f"; {mend}" if mend else ""))

    # What it comes to

    def _tell(
        self,
        fetched: dict[bytes, _Fetched],
        named: Sequence[tuple[str, bytes, datetime]],
        found: Findings,
    ) -> None:
        """Facts of manifests that were missed and of tags that name something else."""
        ages = self._ages(fetched)
        self._fetched |= ages
        tagged: set[bytes] = set()
        for tag, digest, date in named:
            stamp = stamp_of(date, self._new_id)
            if (what := fetched.get(digest)) is not None:
                created = self._known.floor.no_older(tag, ages[digest])
                since = self._since(tag, created)
                fact = seen(
                    self._repository, what.look, stamp, tag=tag, created=created, named=since
                )
            else:
                known = self._known.manifests.get(digest)
                if known is None and digest not in self._fetched:
                    self.unread.add(tag)
                    continue  # what the tag names could not be read
                since = self._since(tag, None)
                fact = _known_again(self._repository, digest, known, stamp, tag, since)
            tagged.add(digest)
            found.facts += self._holding(fact)
        for digest, what in fetched.items():
            if (
                digest in self._known.manifests
                and digest not in self._known.ahead
                and ages[digest] is None
            ):
                continue  # read again for its age, which it did not tell
            if digest not in tagged:
                stamp = stamp_of(what.look.date, self._new_id)
                created = self._known.floor.no_older(format_digest(digest), ages[digest])
                fact = seen(self._repository, what.look, stamp, created=created)
                found.facts += self._holding(fact)

    def _since(self, tag: str, created: int | None) -> int | None:
        """Before which moment the tag did not name what it names now; None: nobody had looked."""
        floor = self._known.floor.of(tag)
        return None if floor is None else max(floor, created or floor)

    def _ages(self, fetched: dict[bytes, _Fetched]) -> dict[bytes, int | None]:
        """Digest → when it was built, nanoseconds: an index is as new as its newest child."""
        ages: dict[bytes, int | None] = {}
        for top in fetched:
            newest: int | None = None
            waiting, visited = [top], {top}
            while waiting:
                digest = waiting.pop()
                what = fetched.get(digest)
                age = what.created if what is not None else self._age_before(digest)
                newest = age if newest is None else max(newest, age or newest)
                children = (
                    what.look.content.children
                    if what is not None and what.look.content is not None
                    else ()
                )
                waiting += [child for child in children if child not in visited]
                visited.update(children)
            ages[top] = newest
        return ages

    def _age_before(self, digest: bytes) -> int | None:
        known = self._known.manifests.get(digest)
        if known is not None:
            return known.pushed_ns if known.pushed_ns >= 0 else None
        return self._fetched.get(digest)

    def _tags_gone(self, absent: dict[bytes, datetime]) -> Findings:
        """Tags that are not there; those whose manifest is gone too go with it."""
        found = Findings()
        for tag, date in self._gone:
            known = self._known.tags[tag]
            if known.digest in absent:
                continue
            if self._judge(tag, date, known.set_ns, found) is Verdict.FORGET:
                stamp = stamp_of(date, self._new_id)
                fact = TagRemoved(DEFAULT_REGISTRY, self._repository, tag, stamp)
                found.facts += self._holding(fact)
        kept = (self._suspected | self._unclear) - self._settled
        found.cleared = sorted(self._known.suspected.keys() - kept)
        return found

    def _holding(self, fact: ManifestSeen | ManifestDeleted | TagRemoved) -> list[Fact]:
        """The fact, in a way that holds where the ledger has stamps above the registry's clock."""
        tag = None if isinstance(fact, ManifestDeleted) else fact.tag
        digest = None if isinstance(fact, TagRemoved) else fact.digest
        known = self._known
        if (
            fact.stamp[0] + AHEAD_NS < known.read_ns  # its clock was set back
            or tag in known.ahead
            or digest in known.ahead
        ):
            return answered(fact, known.read_ns, self._new_id)
        return [fact]

    def _judge(self, named: str | bytes, date: datetime, known_ns: int, found: Findings) -> Verdict:
        reference = format_digest(named) if isinstance(named, bytes) else named
        if contradicts(date, known_ns):
            known_ns = -1  # void once it is forgotten
        since = self._known.suspected.get(reference)
        judged = verdict(
            date,
            known_ns,
            since,
            confirm_now=self._confirm_now,
            may_forget=self._may_forget,
        )
        if judged is Verdict.DOUBT:
            found.doubted.append(
                f"{self._repository} {reference} is not there, although the ledger heard of it at or "
                "after the registry's time: another pass asks again"
            )
        if judged is Verdict.SUSPECT:
            found.suspected[reference] = date
        if judged in (Verdict.SUSPECT, Verdict.WAIT):
            self._suspected.add(reference)
        return judged


def _told(digest: bytes, blob: Blob, found: Findings) -> None:
    """What storage said of a name; where it does not tell, it has not been asked."""
    facts = blob.facts(digest)
    found.facts += facts
    if not facts:
        found.untold.append(digest)


def _known_again(
    repository: str,
    digest: bytes,
    known: KnownManifest | None,
    stamp: tuple[int, bytes],
    tag: str,
    since: int | None,
) -> ManifestSeen:
    """A tag on a manifest that the ledger has: what it contains is known."""
    return ManifestSeen(
        DEFAULT_REGISTRY,
        repository,
        digest,
        stamp,
        known.media_type if known is not None else "",
        known.size if known is not None else 0,
        tag,
        named_ns=since,
    )


def outdated(fact: Fact, known: KnownRepository) -> bool:
    """Whether the ledger learned by itself meanwhile what a fact says, or something newer."""
    if getattr(fact, "arrived_ns", -1) >= 0:
        return False  # it comes with a ceiling
    if isinstance(fact, ManifestSeen):
        tag = known.tags.get(fact.tag) if fact.tag is not None else None
        if fact.tag is None:
            manifest = known.manifests.get(fact.digest)
            return manifest is not None and (fact.created_ns is None or manifest.pushed_ns >= 0)
        return tag is not None and (tag.digest == fact.digest or tag.set_ns >= fact.stamp[0])
    if isinstance(fact, ManifestDeleted):
        manifest = known.manifests.get(fact.digest)
        return manifest is None or manifest.known_ns >= fact.stamp[0]
    if isinstance(fact, TagRemoved):
        tag = known.tags.get(fact.tag)
        return tag is None or tag.set_ns >= fact.stamp[0]
    return False


def _parts(items: Sequence[Item]) -> Iterable[list[Item]]:
    iterator = iter(items)
    while part := list(islice(iterator, AT_ONCE)):
        yield part
