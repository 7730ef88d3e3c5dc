"""Reconciliation: the ledger against what the registry really has.

One pass at a time, whoever asks. Repositories are done in order of name, some at once; the pass's
row remembers up to which, so that one that ended early goes on where it stopped.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import msgspec

from ledger import checks, offsets, store, unreadable, verify
from ledger import reconcile as rows
from ledger.facts import BlobStored, Fact, ManifestDeleted, ManifestSeen, TagRemoved
from ledger.placing import REMEDY, placing
from ledger.reconcile import Drift, KnownRepository, Pass
from ledger.record import RECONCILE, Recorded, Recorder
from quota.absence import SAMPLE, is_mass, looks_like_another
from quota.asking import ask_storage
from quota.looking import each
from quota.policy import DEFAULT_POLICY
from quota.pulling import ELSEWHERE, PullCheck
from quota.walk import Findings, RepositoryWalk, outdated
from quota.words import plural
from registry.client import PROBE_REPOSITORY, RegistryClient
from registry.errors import (
    KNOWN_CACHE,
    PerhapsACache,
    PullThroughCache,
    RegistryError,
    RegistryUnavailable,
)
from registry.names import format_digest
from registry.workspaces import WorkspaceRule
from runtime.figures import in_utc
from runtime.postgres import Connection, Pool
from runtime.settings import DEFAULT_REGISTRY

UNTAGGED = (
    "Untagged manifests from before the installation cannot be listed by any registry API: "
    "they use space, and nobody can count them."
)
_RESUME_WITHIN = timedelta(hours=24)
"""A pass that stopped longer ago is begun anew."""
_REPOSITORIES_AT_ONCE = 8
_MOST_PROBLEMS = 1000
_MOST_SIZES = 1000
"""Sizes of a pass that storage is asked for because somebody contradicts them."""
_MOST_PLACES = 200
"""Images of a pass that are asked for with all that they need: others in the next one."""
_IN_FLIGHT_SECONDS = 2.0
"""What a push's notification may need to arrive: what is on its way is no drift."""
_MOST_IN_FLIGHT = 50
"""More than this is drift, and not waited for."""


class AlreadyReconcilingError(Exception):
    """Another process reconciles just now. Wait until it is done, or look at `GET /v1/status`."""


class Progress(msgspec.Struct):
    """How far a pass is."""

    total: int = 0
    """Repositories; 0 until they are listed."""
    done: int = 0
    manifests: int = 0
    """Tags and manifests looked at in this run."""
    found: int = 0
    corrected: int = 0
    forgotten: int = 0
    suspected: int = 0


class Report(msgspec.Struct):
    """What a pass came to."""

    pass_id: int
    workspace: str | None
    resumed: bool
    """Whether it went on where an earlier run had stopped; its drift counts too."""
    repositories: int
    manifests: int
    """Tags and manifests that this run looked at."""
    drift: list[Drift]
    suspected: int
    """Absences that wait for a second pass."""
    problems: list[str]
    """What could not be read or recorded, and what to do about it."""
    doubted: list[str]
    """What was not as it should be, and proves nothing; the absences are among it."""
    notes: list[str]
    asks: int | None = None
    """Absent manifests that nothing forgets before a person says so, by this number."""

    @property
    def equal(self) -> bool:
        """Whether the ledger equals the registry: all of it was read, and nothing of it differs.

        A run that went on where another stopped cannot say so of what that one read.
        """
        return not (self.drift or self.problems or self.doubted or self.resumed)


class Reconciler:
    """Runs passes; one per process."""

    def __init__(
        self,
        *,
        pool: Pool,
        recorder: Recorder,
        client: RegistryClient,
        rule: WorkspaceRule,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID] = uuid4,
        in_flight: float = _IN_FLIGHT_SECONDS,
        pull_through: bool | None = None,
    ) -> None:
        """`in_flight`: seconds that a difference has to last before it counts as drift.

        `pull_through`: whether the registry is a cache of another, which is not walked through; None:
        it is asked.
        """
        self._pool = pool
        self._recorder = recorder
        self._client = client
        self._rule = rule
        self._clock = clock
        self._new_id = new_id
        self._in_flight = in_flight
        self._pull_through = pull_through
        self.progress = Progress()
        self._walks = False

    @property
    def asked(self) -> int | None:
        """Requests that were tried so far; None while nothing is asked for."""
        return self._client.transport.tried if self._walks else None

    async def run(
        self,
        *,
        workspace: str | None = None,
        confirm_now: bool = False,
        forgetting: int = 0,
        unless_since: datetime | None = None,
    ) -> Report | None:
        """Walk through the registry, or through the repositories of one workspace.

        `forgetting`: so many absent manifests may be forgotten although they are a large share of all.
        None when a pass was finished after `unless_since` (somebody else was faster). Raises
        AlreadyReconcilingError, and RegistryError when the registry does not answer: the pass goes
        on from there next time.
        """
        async with self._pool.acquire() as leading:
            if not await rows.try_lead(leading):
                raise AlreadyReconcilingError(AlreadyReconcilingError.__doc__)
            try:
                if unless_since is not None and await self._finished_since(leading, unless_since):
                    return None
                now = self._clock()
                current = await rows.begin_pass(
                    leading,
                    DEFAULT_REGISTRY,
                    workspace,
                    confirm_now=confirm_now,
                    now=now,
                    resume_since=now - _RESUME_WITHIN,
                )
                return await self._run(current, forgetting)
            finally:
                if not leading.is_closed():
                    await rows.stop_leading(leading)

    async def confirm_restored(self, report: Report) -> int:
        """A person says that what an older backup of the database lacked is in place again.

        Returns how many events that were read once are still to be read again: then, and after a pass
        that did not begin after the backup was noticed, nothing is confirmed (`restored`).
        """
        async with self._pool.acquire() as connection, connection.transaction():
            left = await offsets.not_read_again(connection)
            if not left:
                await offsets.confirm_restored(connection, report.pass_id, now=self._clock())
        return left

    async def restored(self) -> bool:
        """Whether the database is an older backup that no person has confirmed."""
        async with self._pool.acquire() as connection:
            return await offsets.restored_at(connection) is not None

    async def _finished_since(self, connection: Connection, moment: datetime) -> bool:
        last = await rows.last_pass(connection, DEFAULT_REGISTRY, state="finished")
        return last is not None and (last.finished_at or last.started_at) >= moment

    async def _run(self, current: Pass, forgetting: int) -> Report:
        run = _Run(
            current,
            resumed=bool(current.cursor),
            progress=Progress(),
            pulls=PullCheck(self._client),
        )
        self.progress = run.progress
        self._walks = True
        try:
            await self._require_no_cache()
            run.may_forget = await self._may_forget(forgetting)
            names = await self._repositories(run)
            async with self._pool.acquire() as connection:
                await unreadable.tidy(connection)
                run.places = await unreadable.places(
                    connection,
                    DEFAULT_REGISTRY,
                    current.workspace,
                    turn=current.id,
                    keep_newest=DEFAULT_POLICY.keep_newest,
                    limit=_MOST_PLACES,
                )
            run.progress.total = len(names)
            run.waiting = deque(name for name in names if name > current.cursor)
            run.progress.done = len(names) - len(run.waiting)
            await each(range(_REPOSITORIES_AT_ONCE), lambda _number: self._work(run))
        except RegistryError as error:
            await rows.end_pass(
                self._pool,
                current.id,
                state="stopped",
                message=str(error),
                now=self._clock(),
                listed=run.listed,
            )
            raise
        finally:
            self._walks = False
        return await self._finish(run)

    async def _require_no_cache(self) -> None:
        """Raises PullThroughCache, also where it is not known: a pass would download its upstream."""
        if self._pull_through:
            raise PullThroughCache(KNOWN_CACHE)
        await self._client.ping()
        is_cache = await self._client.is_pull_through_cache(PROBE_REPOSITORY)
        if is_cache:
            raise PullThroughCache
        if is_cache is None and self._pull_through is None:
            async with self._pool.acquire() as connection:
                if not await rows.heard_a_push(connection, DEFAULT_REGISTRY):
                    raise PerhapsACache

    async def _may_forget(self, forgetting: int) -> bool:
        """Whether it is the registry that the ledger knows; else a person says that all of it is gone.

        An emptied registry, a volume that is not mounted and another registry at this address answer 404
        as well as what was deleted.
        """
        async with self._pool.acquire() as connection:
            absent, present = await rows.absences(connection, DEFAULT_REGISTRY)
            some = await rows.sample(connection, DEFAULT_REGISTRY, SAMPLE)
            suspects = await rows.suspected_sample(connection, DEFAULT_REGISTRY, SAMPLE)
        gone, still = await self._absent(some), await self._absent(suspects)
        # Of what is suspected much may be there again.
        mass = looks_like_another(gone, len(some), present) or (
            bool(still) and is_mass(absent * still // len(suspects), present)
        )
        return not mass or 0 < forgetting == absent

    async def _absent(self, images: Sequence[tuple[str, bytes]]) -> int:
        """How many of these manifests are not there."""
        return sum(not there for _image, there in await each(images, self._is_there))

    async def _is_there(self, image: tuple[str, bytes]) -> bool:
        """Whether a manifest is there, or cannot be asked for now."""
        try:
            return (await self._client.head_manifest(*image)).exists
        except RegistryError as error:
            await self._excuse(error)
            return True

    async def _repositories(self, run: "_Run") -> list[str]:
        """Names in order: those that the registry lists and those that the ledger has."""
        wanted = run.current.workspace
        async with self._pool.acquire() as connection:
            known = await rows.repositories(connection, DEFAULT_REGISTRY)
        names = {
            name
            for name, (workspace, holds) in known.items()
            if holds and wanted in (None, workspace)
        }
        try:
            async for name in self._client.catalog():
                workspace = known[name][0] if name in known else self._rule.split(name).workspace
                if wanted in (None, workspace):
                    names.add(name)
            run.listed = True
        except RegistryError as error:
            # A large registry may need longer for it than a proxy waits, for ever.
            await self._excuse(error)
            run.tell_problem(
                "the list of repositories: only those were looked at that the ledger knows, or that came "
                "before this; let the account list them (`registry:catalog:*`), and a proxy pass `_catalog` "
                f"on and wait for it: {error}"
            )
        return sorted(names)

    # One repository

    async def _work(self, run: "_Run") -> None:
        """Take repositories until none is left."""
        while run.waiting:
            repository = run.waiting.popleft()
            run.open.add(repository)
            known = await self._known(repository)
            try:
                await self._reconcile(run, repository, known)
            except RegistryError as error:
                await self._excuse(error)
                run.tell_problem(f"{repository}: {error}")
                await rows.not_walked(
                    self._pool, DEFAULT_REGISTRY, repository, run.current.id, known.floor.ns
                )
            run.open.discard(repository)
            run.progress.done += 1
            run.advance(repository)
            await rows.advance_pass(self._pool, run.current, self._clock())

    async def _excuse(self, error: RegistryError) -> None:
        """Go on without one repository that cannot be read, unless the registry itself is the trouble.

        v2.8 answers 500 for ever for a name that v3 takes (`Acme/app`): it must not end every pass.
        """
        if isinstance(error, RegistryUnavailable):
            if error.retry_after is not None:
                raise error
            await self._client.ping()

    async def _reconcile(self, run: "_Run", repository: str, known: KnownRepository) -> None:
        begun_with = known.floor
        missed: set[bytes] = set()
        walk = RepositoryWalk(
            self._client,
            repository,
            known,
            confirm_now=run.current.confirm_now,
            may_forget=run.may_forget,
            clock=self._clock,
            new_id=self._new_id,
            pulls=run.pulls,
            places=run.places.get(repository, frozenset()),
        )
        async for findings in walk.findings():
            await self._keep_pulls(run, repository, known, findings)
            run.progress.manifests += findings.asked
            run.current.manifests += findings.asked
            for problem in findings.problems:
                run.tell_problem(problem)
            for doubt in findings.doubted:
                run.tell_doubt(doubt)
            run.elsewhere.update(findings.elsewhere)
            run.untold[repository] += len(findings.untold)
            if findings.facts and known.manifests and run.drifted < _MOST_IN_FLIGHT:
                known = await self._without_what_arrived(repository, findings)
            if not findings.empty:
                await self._record(run, repository, findings, known, missed)
        await rows.keep_walk(
            self._pool,
            DEFAULT_REGISTRY,
            repository,
            run.current.id,
            now=self._clock(),
            unread={reference: begun_with.of(reference) for reference in walk.unread},
        )

    async def _keep_pulls(
        self, run: "_Run", repository: str, known: KnownRepository, findings: Findings
    ) -> None:
        """What cannot be pulled is announced once, and no pass calls it equal."""
        if not findings.pulls:
            return
        pulls = findings.pulls
        broken = {image: pull.why for image, pull in pulls.items() if pull.state == "broken"}
        whole = [image for image, pull in pulls.items() if pull.state == "whole"]
        elsewhere = sum(pull.why == ELSEWHERE for pull in pulls.values())
        run.pulls_elsewhere += elsewhere
        run.unclear += len(pulls) - len(broken) - len(whole) - elsewhere
        tags = {tag.digest: name for name, tag in known.tags.items()}
        for (_repository, digest), why in broken.items():
            name = f"{repository}:{tags[digest]}" if digest in tags else repository
            told = f"{name} ({format_digest(digest)}) cannot be pulled: {why}; push it again"
            run.tell_doubt(told)
        async with self._pool.acquire() as connection, connection.transaction():
            await unreadable.keep(
                connection,
                DEFAULT_REGISTRY,
                broken=broken,
                whole=whole,
                now=self._clock(),
                new_id=self._new_id,
            )

    async def _known(self, repository: str) -> KnownRepository:
        async with self._pool.acquire() as connection:
            usual = self._rule.split(repository).workspace
            return await rows.known(connection, DEFAULT_REGISTRY, repository, usual=usual)

    async def _without_what_arrived(self, repository: str, findings: Findings) -> KnownRepository:
        """Leave out what its own notification told the ledger meanwhile."""
        await asyncio.sleep(self._in_flight)
        now_known = await self._known(repository)
        findings.facts = [fact for fact in findings.facts if not outdated(fact, now_known)]
        return now_known

    async def _record(
        self,
        run: "_Run",
        repository: str,
        findings: Findings,
        known: KnownRepository,
        missed: set[bytes],
    ) -> None:
        """Facts, suspicions and what they come to, in one transaction.

        `missed` has the manifests found in the repository so far.
        """
        found, corrected, forgotten = _counts(findings.facts, known, missed)

        async def keep(connection: Connection, recorded: Recorded) -> None:
            await rows.save_suspicions(
                connection,
                DEFAULT_REGISTRY,
                repository,
                begun=findings.suspected,
                cleared=findings.cleared,
            )
            if found or corrected or forgotten:
                await rows.add_drift(
                    connection,
                    run.current.id,
                    DEFAULT_REGISTRY,
                    repository,
                    recorded,
                    found=found,
                    corrected=corrected,
                    forgotten=forgotten,
                )

        await self._recorder.record(
            findings.facts, now=self._clock(), source=RECONCILE, within=keep
        )
        run.progress.found += found
        run.progress.corrected += corrected
        run.progress.forgotten += forgotten
        run.progress.suspected += len(findings.suspected)

    # The end

    async def _finish(self, run: "_Run") -> Report:
        await self._recount(run)
        for host, images in run.elsewhere.items():
            run.tell_problem(_sent_elsewhere(host, images))
        if run.pulls_elsewhere and not run.elsewhere:
            run.tell_problem(_unknown_pulls(run.pulls_elsewhere))
        for repository, names in run.untold.items():
            if names:
                run.tell_problem(_untold(repository, names))
        asks = None
        if not run.may_forget:
            async with self._pool.acquire() as connection:
                here = await rows.any_absent(connection, DEFAULT_REGISTRY, run.current.workspace)
                absent, present = await rows.absences(connection, DEFAULT_REGISTRY)
            if here:  # else this pass has nothing to forget
                asks = absent
                run.tell_problem(_mass(absent, present))
        now = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            drift = await rows.drift(connection, run.current.id)
            await rows.announce_drift(connection, run.current, drift, now=now, new_id=self._new_id)
            await rows.end_pass(
                connection,
                run.current.id,
                state="finished",
                message=run.obstacle,
                now=now,
                listed=run.listed,
            )
            suspected = await rows.suspected(connection, DEFAULT_REGISTRY, run.current.workspace)
            placed = await placing(connection, self._rule)
        if any(item.found for item in drift):
            run.notes.append(UNTAGGED)
        if placed.elsewhere:
            run.notes.append(f"{placed.text}: {REMEDY}.")
        if run.unclear:
            run.notes.append(
                f"Whether {plural(run.unclear, 'image')} among the newest of their apps can be pulled could"
                " not be asked in time; later passes ask others first, and a cleanup asks before it deletes."
            )
        for absence in suspected:
            run.tell_doubt(_missing(*absence))
        if run.unlisted:
            run.notes.append(
                f"{run.unlisted} more could not be read or are in doubt: the first {_MOST_PROBLEMS} of"
                " each are named."
            )
        return Report(
            run.current.id,
            run.current.workspace,
            run.resumed,
            run.progress.total,
            run.progress.manifests,
            drift,
            len(suspected),
            run.problems,
            run.doubted,
            run.notes,
            asks,
        )

    async def _recount(self, run: "_Run") -> None:
        """Count what was walked again from its manifests: the counters must say the same."""
        counted = await self._counted(run)
        if await self._ask_storage(run, {digest for item in counted for digest in item.doubted}):
            counted = await self._counted(run)
        now = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            await verify.keep(connection, counted, now=now, new_id=self._new_id)
        for item in counted:
            if item.pending:
                run.tell_doubt(
                    f"{item.workspace}: the layers of {plural(item.pending, 'manifest')} are not counted yet; "
                    "the consumer reads them, and `registry-quota status` (Sizes) says what it waits for"
                )
            if not item.exact:
                run.tell_problem(
                    f"{item.workspace}: its counter says {item.usage_bytes} bytes, its manifests "
                    f"{item.recounted_bytes}; `registry-quota verify` shows what differs"
                )

    async def _counted(self, run: "_Run") -> list[verify.Verified]:
        async with self._pool.acquire() as connection:
            return [item async for item in verify.verify(connection, run.current.workspace)]

    async def _ask_storage(self, run: "_Run", doubted: Collection[bytes]) -> bool:
        """Ask for sizes that events told and manifests contradict; whether any of them was wrong.

        Of many the consumer asks for the rest.
        """
        some = sorted(doubted)[:_MOST_SIZES]
        if not some:
            return False
        async with self._pool.acquire() as connection:
            told = await store.load_stored(connection, some)
            places = await checks.where_held(connection, DEFAULT_REGISTRY, some)
        answers = await each(places, lambda digest: self._asked(places[digest], digest))
        facts = [answer for _digest, answer in answers if answer is not None]
        if facts:
            await self._recorder.record([*facts], now=self._clock(), source=RECONCILE)
        wrong = [fact for fact in facts if fact.size != told.get(fact.digest)]
        for fact in wrong:
            run.tell_doubt(
                f"{places[fact.digest][0]}: an event told {told.get(fact.digest)} bytes of "
                f"{format_digest(fact.digest)}, storage has {fact.size}: its word counts now"
            )
        return bool(wrong)

    async def _asked(self, repositories: Sequence[str], digest: bytes) -> BlobStored | None:
        try:
            return await ask_storage(self._client, repositories, digest)
        except RegistryError as error:
            await self._excuse(error)
            return None


class _Run(msgspec.Struct):
    """A pass, as long as this process works at it."""

    current: Pass
    resumed: bool
    progress: Progress
    pulls: PullCheck
    places: dict[str, frozenset[bytes]] = msgspec.field(default_factory=dict)
    """Repository → manifests that hold places: whether they can be pulled is asked."""
    unclear: int = 0
    """Of those, what could not be asked."""
    may_forget: bool = True
    """Whether absences may be forgotten; else a person is asked first."""
    pulls_elsewhere: int = 0
    """Of those, what is in object storage that we are not allowed to read."""
    waiting: deque[str] = msgspec.field(default_factory=deque)
    open: set[str] = msgspec.field(default_factory=set)
    problems: list[str] = msgspec.field(default_factory=list)
    doubted: list[str] = msgspec.field(default_factory=list)
    unlisted: int = 0
    """Of both, what came after the first `_MOST_PROBLEMS` of each."""
    elsewhere: Counter[str] = msgspec.field(default_factory=Counter)
    """Host of an object storage that we are not allowed to read → images whose config is there."""
    untold: Counter[str] = msgspec.field(default_factory=Counter)
    """Repository → what its manifests only name and the registry does not tell the size of."""
    notes: list[str] = msgspec.field(default_factory=list)
    listed: bool = False
    """Whether all repositories' names were seen."""
    finished: list[str] = msgspec.field(default_factory=list)
    """Done, but not yet behind the cursor: something before them is still open."""

    @property
    def drifted(self) -> int:
        """What was found wrong so far in this run."""
        return self.progress.found + self.progress.corrected + self.progress.forgotten

    def advance(self, repository: str) -> None:
        """Move the cursor behind everything that is done without a gap."""
        self.current.repositories += 1
        self.finished.append(repository)
        first_open = min(self.open, default=None)
        passed = [name for name in self.finished if first_open is None or name < first_open]
        if passed:
            self.current.cursor = max(self.current.cursor, *passed)
            self.finished = [name for name in self.finished if name not in set(passed)]

    def tell_problem(self, problem: str) -> None:
        """Remember what could not be read."""
        self._tell(self.problems, problem)

    def tell_doubt(self, doubt: str) -> None:
        """Remember what is not sure."""
        self._tell(self.doubted, doubt)

    def _tell(self, told: list[str], what: str) -> None:
        if len(told) < _MOST_PROBLEMS:
            told.append(what)
        else:
            self.unlisted += 1

    @property
    def obstacle(self) -> str | None:
        """The problems in a sentence."""
        if not self.problems:
            return None
        return f"{len(self.problems)} things could not be read, first: {self.problems[0]}"


def _sent_elsewhere(host: str, images: int) -> str:
    return (
        f"the configs of {plural(images, 'image')}: the registry sends who reads a blob to {host}, which is "
        "not allowed; so no image that a pass found has an age, nothing is cleaned (whether what stays can "
        f"be pulled is not known), and no size is confirmed: set RQ_REGISTRY_REDIRECT_HOSTS={host} for API, consumer and this command"
    )


def _unknown_pulls(images: int) -> str:
    return (
        f"whether {plural(images, 'image')} among the newest of their apps can be pulled: {ELSEWHERE}, so "
        "nothing is cleaned: `registry-quota doctor` names the host"
    )


def _untold(repository: str, names: int) -> str:
    return (
        f"{repository}: {names} blobs that its manifests only name (layers with `urls`, entries of an "
        "index): the registry has them and does not tell their size, mostly because it sends who asks "
        "to a host that is not allowed; they count nothing until it does: `registry-quota doctor` names "
        "the host for RQ_REGISTRY_REDIRECT_HOSTS"
    )


def _mass(absent: int, present: int) -> str:
    return (
        f"{absent} of {plural(present, 'manifest')} of the ledger are not there: a registry that was emptied, "
        "whose storage is not mounted, or another one at this address answers the same, so nothing is "
        "forgotten. See that RQ_REGISTRY_URL is the right one and has its data; if they are gone for good: "
        f"`registry-quota reconcile --confirm-now --forgetting {absent}`"
    )


def _missing(repository: str, reference: str, since: datetime) -> str:
    colon = "@" if ":" in reference else ":"
    return (
        f"{repository}{colon}{reference} is not there since {in_utc(since)} UTC: a pass an hour "
        "later (or --confirm-now) forgets it"
    )


def _counts(
    facts: Sequence[Fact], known: KnownRepository, missed: set[bytes]
) -> tuple[int, int, int]:
    """How many manifests were missed (they are added to `missed`), tags or blobs wrong, manifests gone."""
    seen = [fact for fact in facts if isinstance(fact, ManifestSeen)]
    before = len(missed)
    missed.update(fact.digest for fact in seen if fact.digest not in known.manifests)
    corrected = sum(isinstance(fact, TagRemoved) for fact in facts) + sum(
        # A new tag of a manifest that was missed belongs to it; one that moved was wrong besides.
        fact.tag is not None and (fact.tag in known.tags or fact.digest not in missed)
        for fact in seen
    )
    named = known.names.union(*(manifest.children for manifest in known.manifests.values()))
    corrected += sum(isinstance(fact, BlobStored) and fact.digest in named for fact in facts)
    forgotten = sum(isinstance(fact, ManifestDeleted) for fact in facts)
    return len(missed) - before, corrected, forgotten
