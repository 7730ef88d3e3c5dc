"""One cleanup of one workspace: plan, check against the registry, carry out, close.

It makes plans until the target is reached or nothing more may go; or carries out one stored plan as
it was shown; or goes on where another process ended. Deleting fails closed, always.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import asyncpg

from ledger import garbage, notices, outbox, plans, reading, runs, unreadable, workspaces
from ledger.facts import Fact
from ledger.outbox import QuotaEvent
from ledger.reading import ManifestView
from ledger.reconcile import floor
from ledger.runs import (
    AlreadyRunningError,
    Item,
    Lease,
    MappedAwayError,
    RecordedItem,
    Run,
    TakenOver,
)
from quota import recheck, stored
from quota.decision import target_bytes
from quota.deleting import RULES_CHANGED, Deletions, Tools, contents_of, deleted, stopped_by
from quota.doubts import Doubts
from quota.late import settle_run
from quota.looking import config_elsewhere
from quota.outcome import Outcome, PlanChangedError, StopError
from quota.plan import ManifestKey, Plan, PlanInput
from quota.planner import make_plan
from quota.pulling import ELSEWHERE, PullCheck
from quota.reasons import obstacle_of
from quota.rounds import rehearsed, rounds
from quota.snapshot import Incoming, Snapshot, plan_input, take_snapshot
from quota.stored import Steps
from registry.errors import PullThroughCache, RegistryError
from registry.manifests import ManifestError
from registry.names import format_digest
from runtime.lifecycle import end
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE
from runtime.settings import DEFAULT_REGISTRY

_MOST_LOOKS = 10
"""Images of unknown age that are looked at for a reason: an index has no config to tell one."""

log = get_logger(__name__)

STALE_AFTER = timedelta(seconds=15)
"""A run without a heartbeat for this long is taken over."""
_BEAT_SECONDS = 3.0
_LOOK_SECONDS = 0.25
"""Between two looks whether another process's run has ended."""
_MOST_ROUNDS = 50
_MOST_CORRECTIONS = 6
_MOST_READINGS = 3
"""How often what is unknown is fetched before planning again: an index may be of indexes."""
_DATE_SECONDS = 1.0
_SECOND_LOOK_SECONDS = 1.0
"""What a registry has in hand when no answer came is mostly done by then."""
_INTERRUPTED = "the process ended before it came to it"
_NOT_REACHED = "the run stopped before it came to it"
_MAPPED_AWAY = "a repository of it belongs to another workspace by now"
_STILL_CHANGING = ("still_changing", "the registry kept changing while it was being cleaned")


class Job:
    """One cleanup. Its outcome grows while it goes on."""

    def __init__(
        self, tools: Tools, workspace: str, incoming: Incoming, cause: str, outcome: Outcome
    ) -> None:
        self._tools = tools
        self._workspace = workspace
        self._incoming = incoming
        self._cause = cause
        self._outcome = outcome
        self._lease: Lease | None = None
        self._deletions: Deletions | None = None
        self._position = 0
        self._unit = 0
        self._checked: dict[str, dict[str, bytes]] = {}
        """Repository → its tags and what they name, as ledger and registry agreed."""
        self._parts: dict[str, set[bytes]] = defaultdict(set)
        """Repository → digests that its manifests name, asked for because the ledger has them not."""
        self._not_found: dict[str, frozenset[bytes]] = {}
        """Repository → digests for which the registry has none of the ledger's tags."""
        self._unanswered: dict[str, frozenset[tuple[int, str]]] = {}
        """Repository → those of the ledger's tags that the registry does not answer."""
        self._doubts = Doubts()
        self._pulls = PullCheck(tools.client)
        self._read: set[ManifestKey] = set()
        self._corrections = 0
        # That it is none is asked all the same: it costs a request, and a mistake an upstream.
        self._is_cache: bool | None = tools.pull_through or None

    # -- three ways to begin -----------------------------------------------------------------------

    async def run(self) -> None:
        """Plan and delete until the target is reached or nothing more may go."""
        async with self._heartbeat():
            stopped = None
            try:
                await self._others()
                await self._rounds()
            except StopError as stop:
                stopped = stop
            await self._close(stopped)

    async def apply(self, plan_id: UUID, steps: Steps) -> None:
        """Carry out a stored plan as it was shown. Raises PlanChangedError before anything goes."""
        async with self._heartbeat():
            stopped = None
            try:
                await self._others()
                await self._carry_out_stored(plan_id, steps)
            except StopError as stop:
                stopped = stop
            await self._close(stopped)

    async def go_on(self, taken: TakenOver) -> None:
        """Finish what another owner had begun: nothing stays half recorded.

        Raises StopError while the registry cannot tell what became of it; then it is tried again.
        """
        self._lease = taken.lease
        self._outcome.run_id = taken.lease.run_id
        log.warning("cleanup_taken_over", workspace=self._workspace, run=str(taken.lease.run_id))
        async with self._heartbeat():
            items = await self._settle()
            stopped = None
            try:
                await self._carry_on(items)
                if taken.plan_id is None:
                    await self._rounds()
                else:
                    # What was shown to somebody is not planned anew behind their back.
                    stopped = StopError("interrupted", "the process that carried it out ended")
            except StopError as stop:
                stopped = stop
            await self._close(stopped)

    # -- planning ----------------------------------------------------------------------------------

    async def plan(self) -> tuple[Snapshot, Plan]:
        """What would go now. Raises LookupError for a workspace that is not known."""
        snapshot, _source, plan = await self._plan_read()
        return snapshot, plan

    async def _plan_read(self) -> tuple[Snapshot, PlanInput, Plan]:
        """A plan, and what it was made from, after what it lacks was fetched."""
        made = await self._plan_once()
        for _round in range(_MOST_READINGS):
            if not await self._read_unresolved(made[0], made[2]):
                break
            made = await self._plan_once()
        return made

    async def plan_asked(self, seconds: float) -> tuple[Snapshot, Plan]:
        """What would go now, after asking the registry about it as a cleanup does.

        The registry has so long for it; what it could not be asked is a warning of the outcome.
        Raises LookupError.
        """
        snapshot, plan = await self.plan()
        try:
            async with asyncio.timeout(seconds):
                while await self._registry_differs(snapshot, plan, _keys(plan)):
                    snapshot, plan = await self.plan()
        except (StopError, TimeoutError) as error:
            log.info("plan_not_checked", workspace=self._workspace, reason=str(error) or "too slow")
            if not self._is_cache:  # then the plan itself says so
                self._outcome.warn("registry_not_asked")
            snapshot, plan = await self.plan()
        else:
            await self._tell_why_no_age(plan, seconds)
        return snapshot, plan

    async def _tell_why_no_age(self, plan: Plan, seconds: float) -> None:
        """Images whose age is not known stay for ever: where their configs cannot be read, say so."""
        of_no_age = [one.manifest for one in plan.decisions if not one.manifest.age_known]
        client = self._tools.client
        with contextlib.suppress(TimeoutError, RegistryError, ManifestError):
            async with asyncio.timeout(seconds):
                for image in of_no_age[:_MOST_LOOKS]:
                    elsewhere = await config_elsewhere(client, image.repository, image.digest)
                    if elsewhere:
                        self._outcome.warn("blobs_elsewhere")
                    if elsewhere is not None:
                        return

    async def _plan_once(self) -> tuple[Snapshot, PlanInput, Plan]:
        async with self._tools.pool.acquire() as connection:
            snapshot = await take_snapshot(
                connection,
                self._workspace,
                self._incoming,
                now=self._tools.clock(),
                unanswered=frozenset().union(*self._unanswered.values()),
            )
        if snapshot is None:
            raise LookupError(f"workspace {self._workspace} is not known")
        done = self._deletions
        failed = frozenset() if done is None else frozenset(done.failed)
        spared = {} if done is None else dict(done.spared)
        before = 0 if done is None else done.images
        not_found = frozenset(
            (DEFAULT_REGISTRY, repository, digest)
            for repository, digests in self._not_found.items()
            for digest in digests
        )

        def think() -> tuple[PlanInput, Plan]:
            stays = self._doubts.of(snapshot) | spared
            source = plan_input(
                snapshot,
                failed,
                stays,
                not_found=not_found,
                deleted_before=before,
                is_cache=bool(self._is_cache),
            )
            return source, make_plan(source)

        # In a thread: a large workspace must not hold up the hooks of all others.
        return snapshot, *await asyncio.to_thread(think)

    async def _read_unresolved(self, snapshot: Snapshot, plan: Plan) -> bool:
        """Fetch manifests that stay only because too little is known of them: size, subject, children."""
        views = snapshot.by_key()
        unknown = [
            views[manifest.key]
            for manifest in plan.unresolved
            if manifest.registry == DEFAULT_REGISTRY
            and manifest.key not in self._read
            and not self._is_cache
        ]
        self._read.update(manifest.key for manifest in plan.unresolved)
        facts = await recheck.read_manifests(self._tools.client, unknown)
        if facts:
            await self._tools.recorder.record(facts, now=self._tools.clock(), source="cleanup")
        return bool(facts)

    async def rehearse(self) -> None:
        """What `run` would come to, without a DELETE and without a run on record.

        Waits for who cleans the workspace just now, as `run` does.
        """
        outcome = self._outcome
        outcome.warn("dry_run")
        outcome.rehearsed = True
        final: Plan | None = None
        try:
            await self._nobody_else()
            snapshot, source, plan = await self._confirmed_plan()
            done = await asyncio.to_thread(lambda: list(rounds(source, plan)))
            outcome.images, outcome.let_go = rehearsed(source, [plan for _source, plan in done])
            final = done[-1][1]
            self._refuse(final)
        except StopError as stop:
            outcome.warn(stop.warning)
            outcome.stopped = True
            outcome.obstacle = str(stop)
        if final is None:
            snapshot, final = await self.plan()
            target = target_bytes(snapshot.workspace.quota_bytes, snapshot.policy)
            outcome.target_reached = snapshot.projected_bytes <= target
        else:
            outcome.target_reached = final.usage_before_bytes <= final.target_usage_bytes
        if outcome.target_reached:
            outcome.obstacle = None
        elif not outcome.stopped:
            outcome.obstacle = final.why_not
        outcome.done = True

    def _refuse(self, plan: Plan) -> None:
        """Raises StopError when the plan may not be carried out."""
        for warning in plan.warnings:
            self._outcome.warn(warning.code)
        for block in plan.blocks:
            self._outcome.warn(block.code)
        if plan.blocks:
            sentences = "; ".join(block.sentence for block in plan.blocks)
            raise StopError(plan.blocks[0].code, sentences)

    async def _confirmed_plan(self) -> tuple[Snapshot, PlanInput, Plan]:
        """A plan that the registry was asked about. Raises StopError when nothing may go."""
        while True:
            snapshot, source, plan = await self._plan_read()
            self._refuse(plan)
            if plan.why_not is None and not plan.units:
                return snapshot, source, plan
            if not await self._registry_differs(snapshot, plan, _keys(plan)):
                return snapshot, source, plan
            self._corrections += 1
            if self._corrections >= _MOST_CORRECTIONS:
                raise StopError(*_STILL_CHANGING)

    async def _rounds(self) -> None:
        for _round in range(_MOST_ROUNDS):
            snapshot, _source, plan = await self._confirmed_plan()
            if not plan.units:
                return
            units = self._items(snapshot, stored.steps_of(plan, snapshot.known_ns()))
            try:
                deletions = await self._begin(snapshot, units, promised=plan.freed_bytes)
            except MappedAwayError:
                continue
            except AlreadyRunningError:
                await self._others()
                continue
            await deletions.carry_out(units, snapshot)
            await self._look_again(deletions)
        raise StopError(*_STILL_CHANGING)

    async def _carry_out_stored(self, plan_id: UUID, steps: Steps) -> None:
        keys = [member.key for unit in steps.units for member in unit]
        for _round in range(_MOST_CORRECTIONS):
            snapshot, plan = await self.plan()
            holdings = {digest: (held.refs, held.size) for digest, held in snapshot.held.items()}
            changes = stored.changes(steps, plan, snapshot.known_ns(), holdings)
            try:
                # As when the plan was made: what the registry says may be why it is what it is.
                if await self._registry_differs(snapshot, plan, keys):
                    continue
            except StopError as stop:
                if changes:
                    raise PlanChangedError(changes) from stop
                raise
            if changes:
                raise PlanChangedError(changes)
            units = self._items(snapshot, steps)
            try:
                deletions = await self._begin(
                    snapshot, units, promised=steps.freed_bytes, plan_id=plan_id
                )
            except MappedAwayError as error:
                raise PlanChangedError([_MAPPED_AWAY]) from error
            except AlreadyRunningError:
                await self._others()
                continue
            done = await deletions.carry_out(units, snapshot)
            await self._look_again(deletions)
            if not done:
                # What was shown to somebody is not planned anew behind their back.
                raise StopError("rules_changed", RULES_CHANGED)
            return
        raise PlanChangedError(["the registry keeps changing; make another plan"])

    # -- other owners ------------------------------------------------------------------------------

    async def _nobody_else(self) -> None:
        """Wait until no run of the workspace is open, here or in another process."""
        while True:
            async with self._tools.pool.acquire() as connection:
                view = await reading.find_workspace(
                    connection, self._workspace, now=self._tools.clock()
                )
                if view is None or await runs.running(connection, view.id) is None:
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _others(self) -> None:
        """One run at a time: wait for one that lives, finish one whose process has ended."""
        tools = self._tools
        while True:
            async with tools.pool.acquire() as connection:
                view = await reading.find_workspace(connection, self._workspace, now=tools.clock())
                if view is None or await runs.running(connection, view.id) is None:
                    return
                taken = await runs.take_over(
                    connection,
                    view.id,
                    owner=tools.owner,
                    now=tools.clock(),
                    stale_after=STALE_AFTER,
                )
            if taken is not None:
                await finish_taken_over(tools, self._workspace, taken, Outcome())
            else:
                await asyncio.sleep(_LOOK_SECONDS)

    async def _settle(self) -> list[RecordedItem]:
        """What became of the items that another owner left."""
        lease = self._held_lease()
        async with self._tools.pool.acquire() as connection:
            items = await runs.items_of(connection, lease.run_id)
            view = await reading.find_workspace(
                connection, self._workspace, now=self._tools.clock()
            )
        if view is None:  # pragma: no cover - it has the run, and workspaces are never deleted
            raise LookupError(self._workspace)
        self._position = max((recorded.item.position for recorded in items), default=0)
        self._unit = max((recorded.item.unit for recorded in items), default=0)
        self._deletions = Deletions(self._tools, lease, (view.id, view.name), self._outcome)
        return await self._deletions.settle(items)

    async def _carry_on(self, items: Sequence[RecordedItem]) -> None:
        """Finish the units that another owner had begun."""
        snapshot, _source, _plan = await self._plan_once()
        if self._deletions is not None:
            await self._deletions.carry_on(items, contents_of(snapshot))
            await self._look_again(self._deletions, taken_over=True)
        async with self._tools.pool.acquire() as connection:
            await runs.skip_rest(
                connection, self._held_lease().run_id, _INTERRUPTED, self._tools.clock()
            )

    async def _look_again(self, deletions: Deletions, *, taken_over: bool = False) -> None:
        """What no answer came to may have been carried out meanwhile: then it counts as deleted.

        What the registry still has is looked at again when the run has long ended (`quota.late`).
        """
        if not (deletions.unsure or taken_over):
            return
        if deletions.unsure:
            await asyncio.sleep(_SECOND_LOOK_SECONDS)
        outcome = self._outcome
        for late, freed in await settle_run(self._tools, self._held_lease().run_id):
            item = late.kept.recorded.item
            deletions.unsure.pop(item.key, None)
            told = deleted(item, freed)
            outcome.images.append(told)
            outcome.failed = [
                failed
                for failed in outcome.failed
                if (failed.repository, failed.digest) != (told.repository, told.digest)
            ]
            deletions.images += late.heads_its_unit

    @asynccontextmanager
    async def _heartbeat(self) -> AsyncIterator[None]:
        """Say now and then that the run lives, however long the registry takes."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            await end([beating])

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            if self._lease is None:
                continue
            # Whether the run is still ours is asked again before each DELETE.
            with contextlib.suppress(*UNAVAILABLE, asyncpg.PostgresError):
                async with self._tools.pool.acquire() as connection:
                    await runs.heartbeat(connection, self._lease, self._tools.clock())

    # -- carrying out ------------------------------------------------------------------------------

    async def _registry_differs(
        self, snapshot: Snapshot, plan: Plan, keys: Sequence[ManifestKey]
    ) -> bool:
        """Ask the registry about what the plan rests on; True when it has to be made again.

        First the tags, then what images name beside them, then whether the images that hold the
        protected places can be pulled; before all whether it is a cache, which deletes nothing and would
        download what it is asked for.
        """
        await self._require_no_cache(snapshot, keys)
        return (
            await self._tags_differ(snapshot, keys)
            or await self._parts_differ(snapshot, keys)
            or await self._places_differ(snapshot, plan)
        )

    async def _require_no_cache(self, snapshot: Snapshot, keys: Sequence[ManifestKey]) -> None:
        """Raises StopError, also where the account may do nothing that would tell, a DELETE for one."""
        first = next((key for key in keys if key[0] == DEFAULT_REGISTRY), None)
        repository = first and first[1]
        for view in snapshot.manifests:
            if repository is None and view.present and view.registry == DEFAULT_REGISTRY:
                repository = view.repository
        if self._is_cache is None and repository is not None:
            try:
                self._is_cache = await self._tools.client.is_pull_through_cache(repository)
            except RegistryError as error:
                raise stopped_by(error) from error
            if self._is_cache is None and self._tools.pull_through is None:
                told = f"the account may neither delete nor push in {repository}"
                raise StopError("registry_denied", told)
        if self._is_cache:
            raise StopError("pull_through_cache", str(PullThroughCache()))

    async def _tags_differ(self, snapshot: Snapshot, keys: Sequence[ManifestKey]) -> bool:
        views = snapshot.by_key()
        # Which images are the newest shows in all repositories of an app.
        apps = {views[key].app for key in keys if key in views}
        repositories = {
            view.repository: view.repository_id
            for view in views.values()
            if view.app in apps and view.registry == DEFAULT_REGISTRY
        }
        named = _named(views)
        corrected = doubted = False
        for repository, repository_id in sorted(repositories.items()):
            agreed = self._checked.get(repository)
            # What the run itself deleted took its tags along.
            if agreed is not None and named[repository] == {
                tag: digest
                for tag, digest in agreed.items()
                if (DEFAULT_REGISTRY, repository, digest) in views
            }:
                continue
            async with self._tools.pool.acquire() as connection:
                not_before = await floor(
                    connection, DEFAULT_REGISTRY, repository, usual=self._workspace
                )
            try:
                found = await recheck.differences(
                    self._tools.client,
                    snapshot,
                    repository,
                    floor=not_before,
                    new_id=self._tools.new_id,
                )
            except RegistryError as error:
                stop = stopped_by(error)
                raise StopError(
                    stop.warning, f"{repository} could not be checked: {error}"
                ) from error
            if found.facts:
                await self._tools.recorder.record(
                    found.facts, now=self._tools.clock(), source="cleanup"
                )
            if found.not_found - found.doubted.keys():
                self._outcome.warn("images_not_found")
            if self._doubts.learn(repository, found):
                doubted = True
            unanswered = frozenset((repository_id, tag) for tag in found.unanswered)
            before = (self._not_found.get(repository), self._unanswered.get(repository))
            self._not_found[repository] = found.not_found
            self._unanswered[repository] = unanswered
            if found.facts or (found.not_found, unanswered) != (
                before[0] or frozenset(),
                before[1] or frozenset(),
            ):
                corrected = True
            else:
                self._checked[repository] = named[repository]
        self._outcome.warn(*self._doubts.warnings(snapshot))
        if corrected:
            # The registry's Date has whole seconds: what it says in the second of an event cannot
            # overrule that event. It is asked again, until ledger and registry agree. And a tag whose
            # event was told before it was written is there by then.
            await asyncio.sleep(_DATE_SECONDS)
        return corrected or doubted

    async def _parts_differ(self, snapshot: Snapshot, keys: Sequence[ManifestKey]) -> bool:
        """Whether something unknown may hold what is to go; each digest is asked for once a run."""
        facts: list[Fact] = []
        doubted = False
        views: dict[str, list[ManifestView]] = {
            name: [] for registry, name, _ in keys if registry == DEFAULT_REGISTRY
        }
        for (registry, name, _), view in snapshot.by_key().items():
            if registry == DEFAULT_REGISTRY and name in views:
                views[name].append(view)
        for repository in sorted(views):
            try:
                found = await recheck.unknown_parts(
                    self._tools.client,
                    repository,
                    views[repository],
                    self._parts[repository],
                    new_id=self._tools.new_id,
                )
            except RegistryError as error:
                raise stopped_by(error) from error
            facts += found.facts
            doubted = self._doubts.learn(repository, found) or doubted
        if facts:
            await self._tools.recorder.record(facts, now=self._tools.clock(), source="cleanup")
        self._outcome.warn(*self._doubts.warnings(snapshot))
        return bool(facts) or doubted

    async def _places_differ(self, snapshot: Snapshot, plan: Plan) -> bool:
        """Whether what holds places can be pulled; each image is asked for once a run.

        So is what could not be pulled before, in the apps that this is about, or anywhere when nothing
        may go: it may be mended, and hold a place again.
        """
        tools = self._tools
        apps = {manifest.app for manifest in plan.places}
        views = snapshot.by_key()
        wanted = [manifest.key for manifest in plan.places] + [
            key
            for key in snapshot.unreadable
            if key in views and (views[key].app in apps or not plan.units)
        ]
        asked = {
            (repository, digest): key
            for key in wanted
            for registry, repository, digest in [key]
            if registry == DEFAULT_REGISTRY and not self._pulls.knows((repository, digest))
        }
        if not asked:
            return False
        known = {(view.repository, view.digest) for view in snapshot.manifests}
        try:
            pulls = await self._pulls.ask(asked, known)
        except RegistryError as error:
            raise stopped_by(error) from error
        broken = {image: pull.why for image, pull in pulls.items() if pull.state == "broken"}
        whole = [image for image, pull in pulls.items() if pull.state == "whole"]
        mended = any(asked[image] in snapshot.unreadable for image in whole)
        if broken or mended:
            now = tools.clock()
            async with tools.pool.acquire() as connection, connection.transaction():
                await unreadable.keep(
                    connection,
                    DEFAULT_REGISTRY,
                    broken=broken,
                    whole=whole,
                    now=now,
                    new_id=tools.new_id,
                )
        for image, why in broken.items():
            view = views[asked[image]]
            log.warning(
                "image_unreadable",
                workspace=self._workspace,
                repository=view.repository,
                digest=format_digest(view.digest),
                tags=list(view.tags),
                reason=why,
            )
            self._outcome.warn(f"image_unreadable:{_name(view)}")
        unclear = {
            views[asked[image]].app: (_name(views[asked[image]]), pull.why)
            for image, pull in pulls.items()
            if pull.state == "unclear"
        }
        self._doubts.apps |= {
            app: f"whether {name}, which holds a place of app {app}, can be pulled is not known: {why}"
            for app, (name, why) in unclear.items()
        }
        if any(pull.why == ELSEWHERE for pull in pulls.values()):
            self._outcome.warn("blobs_elsewhere")
        self._outcome.warn(*self._doubts.warnings(snapshot))
        return bool(broken or mended or unclear)

    def _items(self, snapshot: Snapshot, steps: Steps) -> list[list[Item]]:
        """Steps as audit rows, in order."""
        views = snapshot.by_key()
        units = []
        for unit in steps.units:
            items = []
            self._unit += 1
            for member in unit:
                view = views[member.key]
                self._position += 1
                items.append(
                    Item(
                        position=self._position,
                        unit=self._unit,
                        repository_id=view.repository_id,
                        registry=view.registry,
                        repository=view.repository,
                        digest=view.digest,
                        app=view.app,
                        tags=view.tags,
                        code=member.code,
                        why=member.why,
                        promised_bytes=member.freed_bytes,
                        push_ns=view.known_ns,
                        media_type=view.media_type,
                        aged_ns=view.age.ns,
                    )
                )
            units.append(items)
        return units

    async def _begin(
        self,
        snapshot: Snapshot,
        units: Sequence[Sequence[Item]],
        *,
        promised: int,
        plan_id: UUID | None = None,
    ) -> Deletions:
        """Record the run (once) and what it is going to delete, before the first request.

        Raises AlreadyRunningError, MappedAwayError.
        """
        lease = self._lease
        async with self._tools.pool.acquire() as connection, connection.transaction():
            if lease is None:
                run = Run(
                    id=self._tools.new_id(),
                    workspace_id=snapshot.workspace.id,
                    cause=self._cause,
                    owner=self._tools.owner,
                    quota_bytes=snapshot.workspace.quota_bytes,
                    usage_before=snapshot.workspace.usage_bytes,
                    promised_bytes=promised,
                    incoming_bytes=self._incoming.incoming_bytes,
                    reserved_bytes=self._incoming.reserved_bytes,
                    incoming_digests=self._incoming.digests,
                    plan_id=plan_id,
                )
                repositories = {item.repository_id for unit in units for item in unit}
                lease = await runs.begin_run(connection, run, repositories, now=self._tools.clock())
                if plan_id is not None and not await plans.use_plan(connection, plan_id, run.id):
                    raise PlanChangedError(["it was carried out meanwhile"])
            elif not await runs.heartbeat(connection, lease, self._tools.clock()):
                raise StopError("run_taken_over", "the run was taken over by another process")
            await runs.add_items(
                connection, lease.run_id, [item for unit in units for item in unit]
            )
        self._lease = lease
        self._outcome.run_id = lease.run_id
        if self._deletions is None:
            self._deletions = Deletions(
                self._tools, lease, (snapshot.workspace.id, self._workspace), self._outcome
            )
        return self._deletions

    def _held_lease(self) -> Lease:
        if self._lease is None:  # pragma: no cover - whoever asks has taken it
            raise AssertionError
        return self._lease

    # -- the end -----------------------------------------------------------------------------------

    async def _close(self, stopped: StopError | None) -> None:
        """Close the run and announce how it went."""
        outcome, tools = self._outcome, self._tools
        if stopped is not None:
            outcome.warn(stopped.warning)
            outcome.stopped = True
        snapshot, plan = await self.plan()
        target = target_bytes(snapshot.workspace.quota_bytes, snapshot.policy)
        outcome.target_reached = snapshot.projected_bytes <= target
        obstacle = str(stopped) if stopped is not None else plan.why_not
        outcome.obstacle = None if outcome.target_reached else obstacle
        now = tools.clock()
        async with tools.pool.acquire() as connection, connection.transaction():
            await workspaces.lock_workspace(connection, self._workspace)
            if self._lease is not None:
                ours = await runs.finish_run(
                    connection,
                    self._lease,
                    state="finished" if stopped is None else "stopped",
                    usage_after=snapshot.workspace.usage_bytes,
                    target_reached=outcome.target_reached,
                    warnings=outcome.warnings,
                    message=None if stopped is None else str(stopped),
                    now=now,
                )
                if not ours:
                    return  # its new owner closes it, and announces it
                await runs.skip_rest(connection, self._lease.run_id, _NOT_REACHED, now)
            awaiting = await garbage.awaiting_bytes(connection, snapshot.workspace.id)
            events = self._events(snapshot, target, awaiting)
            if outcome.target_reached:
                await notices.forget_insufficient(connection, snapshot.workspace.id)
            else:
                why = obstacle_of(plan.kept_by) if stopped is None else stopped.warning
                if not await notices.tell_insufficient(
                    connection, snapshot.workspace.id, why, now=now
                ):
                    events = [item for item in events if item.type != outbox.CLEANUP_INSUFFICIENT]
            await outbox.add_events(connection, events, now=now, new_id=tools.new_id)
        self._tell(stopped)

    def _tell(self, stopped: StopError | None) -> None:
        """The log's line about how it went."""
        outcome = self._outcome
        (log.info if outcome.target_reached and stopped is None else log.warning)(
            "cleanup_finished" if stopped is None else "cleanup_stopped",
            workspace=self._workspace,
            run=None if outcome.run_id is None else str(outcome.run_id),
            cause=self._cause,
            deleted=len(outcome.images),
            failed=len(outcome.failed),
            freed_bytes=outcome.freed_bytes,
            target_reached=outcome.target_reached,
            reason=outcome.obstacle if stopped is None else str(stopped),
        )

    def _events(self, snapshot: Snapshot, target: int, awaiting_gc: int) -> list[QuotaEvent]:
        workspace, outcome = snapshot.workspace, self._outcome
        common = {
            "run_id": str(outcome.run_id) if outcome.run_id else None,
            "cause": self._cause,
            "usage_bytes": workspace.usage_bytes,
            "quota_bytes": workspace.quota_bytes,
            "target_bytes": target,
            "target_reached": outcome.target_reached,
            "freed_bytes": outcome.freed_bytes,
            "awaiting_gc_bytes": awaiting_gc,
        }
        events = []
        if outcome.run_id is not None:
            images = [
                {
                    "repository": image.repository,
                    "app": image.app,
                    "digest": image.digest,
                    "tags": image.tags,
                    "freed_bytes": image.freed_bytes,
                    "why": image.why,
                }
                for image in outcome.images
            ]
            failed = [
                {"repository": item.repository, "digest": item.digest, "reason": item.reason}
                for item in outcome.failed
            ]
            data = {**common, "images": images, "failed": failed}
            events.append(QuotaEvent(workspace.id, workspace.name, outbox.CLEANUP_FINISHED, data))
        if not outcome.target_reached:
            data = {**common, "reason": outcome.obstacle}
            events.append(
                QuotaEvent(workspace.id, workspace.name, outbox.CLEANUP_INSUFFICIENT, data)
            )
        return events


def _keys(plan: Plan) -> list[ManifestKey]:
    return [step.key for step in plan.steps]


def _named(views: Mapping[ManifestKey, ManifestView]) -> dict[str, dict[str, bytes]]:
    """Repository → its tags, as the ledger has them, and what they name."""
    named: dict[str, dict[str, bytes]] = defaultdict(dict)
    for view in views.values():
        if view.registry == DEFAULT_REGISTRY:
            named[view.repository].update(dict.fromkeys(view.tags, view.digest))
    return named


def _name(view: ManifestView) -> str:
    """`acme/api:1.2`, or by digest."""
    if view.tags:
        return f"{view.repository}:{view.tags[0]}"
    return f"{view.repository}@{format_digest(view.digest)}"


async def finish_taken_over(
    tools: Tools, workspace: str, taken: TakenOver, outcome: Outcome
) -> None:
    """Go on with a run whose process ended, for what it was begun."""
    incoming = Incoming(
        incoming_bytes=taken.incoming_bytes,
        reserved_bytes=taken.reserved_bytes,
        digests=taken.incoming_digests,
    )
    await Job(tools, workspace, incoming, taken.cause, outcome).go_on(taken)
