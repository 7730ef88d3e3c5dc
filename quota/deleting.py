"""Carrying out what was planned: keep the bytes, DELETE, forget, one manifest after another.

Every step is written down before it is done, so that whoever takes the run over knows what may have
happened: an item `deleting` is gone or not, and only the registry can say which.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ledger import reading, runs
from ledger.ahead import just_after
from ledger.facts import Ceiling, Content, Fact, ManifestDeleted
from ledger.leases import leases_of
from ledger.record import Recorded, Recorder
from ledger.runs import Item, Lease, RecordedItem
from quota.kinds import of_content
from quota.looking import contradicts, only_this
from quota.outcome import Deleted, Failed, Outcome, Spared, StopError
from quota.plan import Kept, ManifestKey
from quota.snapshot import Snapshot
from registry.client import RegistryClient
from registry.errors import (
    DeletesDisabled,
    NotFound,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
)
from registry.following import all_tags_named_by, may_follow, subject_of_tag
from registry.names import format_digest
from registry.timestamps import to_ns
from runtime.logs import get_logger
from runtime.postgres import Connection, Pool
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

SECOND_NS = 1_000_000_000
"""A registry's Date has whole seconds, cut off: what it answered for happened before the next one."""
PULLED_MEANWHILE = "it, or what it holds, was pulled after the plan was made"
RULES_CHANGED = "quota or policy was changed while the cleanup ran"
_MOST_AWAY = 20
"""Manifests in a row that the registry gave no answer for, until the run stops.

Before that it is asked whether it is there at all, each time.
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a cleanup works with: one set a process."""

    pool: Pool
    recorder: Recorder
    client: RegistryClient
    clock: Callable[[], datetime]
    owner: str
    new_id: Callable[[], UUID]
    pull_through: bool | None = None
    """Whether the registry is a pull-through cache; None: it is asked before it is cleaned."""


def stopped_by(error: RegistryError) -> StopError:
    """What ends a run, told from what the registry said."""
    if isinstance(error, DeletesDisabled):
        return StopError("deletes_disabled", str(error))
    if isinstance(error, RegistryDenied):
        return StopError("registry_denied", str(error))
    return StopError("registry_unavailable", str(error))


class Deletions:
    """The deletions of one run, for whoever holds its lease."""

    def __init__(
        self, tools: Tools, lease: Lease, workspace: tuple[int, str], outcome: Outcome
    ) -> None:
        """`workspace`: its id and name."""
        self._tools = tools
        self._lease = lease
        self._workspace_id, self._workspace = workspace
        self._outcome = outcome
        self._away = 0
        self.failed: set[ManifestKey] = set()
        """What could not be deleted: others take its place."""
        self.spared: dict[ManifestKey, Kept] = {}
        """What stays for what happened meanwhile, and why."""
        self.unsure: dict[ManifestKey, int] = {}
        """What no answer came to: it may be deleted yet. The bytes that this would free."""
        self.images = 0
        """Units whose image is gone."""

    async def carry_out(self, units: Sequence[Sequence[Item]], made: Snapshot) -> bool:
        """Delete units in order, as they were planned from `made`. Raises StopError.

        False when quota or policy are others by now: the rest stays, and has to be planned anew.
        """
        contents = contents_of(made)
        pulls = {(view.repository_id, view.digest): view.pulled_ns for view in made.manifests}
        for place, unit in enumerate(units):
            if await self._rules_changed(made):
                for item in (item for rest in units[place:] for item in rest):
                    await self._finish(item, "skipped", RULES_CHANGED)
                return False
            stays: Kept | None = None
            if await self._leased(unit, contents):
                stays = "in_use", "it is in use, or holds what is"
            elif made.policy.keep_pulled_days is not None and await self._pulled(unit, pulls):
                stays = "pulled_meanwhile", PULLED_MEANWHILE
            if stays is not None:
                for item in unit:
                    await self._spare(item, stays)
            elif await self._unit(unit, contents, set()):
                self.images += 1
        return True

    async def _rules_changed(self, made: Snapshot) -> bool:
        async with self._tools.pool.acquire() as connection:
            now = await reading.rules(connection, self._workspace_id)
        return now != (made.workspace.quota_bytes, made.workspace.policy)

    async def _pulled(self, unit: Sequence[Item], before: Mapping[tuple[int, bytes], int]) -> bool:
        """Whether any of it was pulled since."""
        async with self._tools.pool.acquire() as connection:
            now = await reading.pulled_ns(
                connection, [(item.repository_id, item.digest) for item in unit]
            )
        return any(pulled > before.get(key, -1) for key, pulled in now.items())

    async def settle(self, items: Sequence[RecordedItem]) -> list[RecordedItem]:
        """What became of the items that another owner left: the registry is asked where it has to be.

        Raises StopError while the registry cannot tell.
        """
        return [await self._settle(recorded) for recorded in items]

    async def carry_on(
        self, items: Sequence[RecordedItem], contents: Mapping[ManifestKey, Content | None]
    ) -> None:
        """Finish the units that another owner had begun; the others stay. Raises StopError."""
        units: dict[int, list[RecordedItem]] = {}
        for recorded in items:
            units.setdefault(recorded.item.unit, []).append(recorded)
            self._report(recorded)
        for unit in units.values():
            if not any(recorded.state in ("deleted", "restored") for recorded in unit):
                continue  # not begun: it is planned anew
            self.images += 1
            stays = {r.item.key for r in unit if r.state in ("failed", "skipped")}
            rest = [recorded.item for recorded in unit if recorded.state == "planned"]
            stays |= await self._leased(rest, contents)
            await self._unit(rest, contents, stays, unit=[r.item for r in unit])

    async def _unit(
        self,
        items: Sequence[Item],
        contents: Mapping[ManifestKey, Content | None],
        stays: set[ManifestKey],
        *,
        unit: Sequence[Item] | None = None,
    ) -> bool:
        """Children after their index, referrers after their subject: what is held by a rest stays.

        Returns whether the first of them is gone.
        """
        for item in items:
            holders = _holders(item, unit or items, contents)
            if item.key in stays or any(holder.key in stays for holder in holders):
                stays.add(item.key)
                await self._finish(item, "skipped", "it is in use, or belongs to what stays")
            elif not await self._delete(item, contents.get(item.key)):
                stays.add(item.key)
        return bool(items) and items[0].key not in stays

    async def _settle(self, recorded: RecordedItem) -> RecordedItem:
        """An item whose DELETE may have been sent: the registry says what became of it."""
        item = recorded.item
        if recorded.state != "deleting":
            return recorded
        try:
            head = await self._tools.client.head_manifest(item.repository, item.digest)
        except RegistryError as error:
            raise stopped_by(error) from error
        if head.exists:
            async with self._tools.pool.acquire() as connection:
                await runs.plan_again(connection, self._lease.run_id, item.position)
            return RecordedItem(item, "planned", 0, None, recorded.document)
        freed = await self._forget(item, head.date, recorded.freed_bytes)
        return RecordedItem(item, "deleted", freed, None, recorded.document)

    def _report(self, recorded: RecordedItem) -> None:
        """What the run had done before goes into its outcome."""
        item = recorded.item
        if recorded.state in ("deleted", "restored"):
            self._outcome.images.append(deleted(item, recorded.freed_bytes))
        elif recorded.state == "failed":
            self.failed.add(item.key)
            self._outcome.failed.append(_failed(item, recorded.failure or ""))

    async def _delete(self, item: Item, content: Content | None) -> bool:
        """One manifest: keep its bytes, DELETE it, forget it. False when it stays."""
        skip = await self._must_skip(item, content)
        if skip is not None:
            await self._spare(item, skip)
            return False
        try:
            frees = await self._keep_document(item, content)
            date = await self._delete_now(item, frees)
        except (DeletesDisabled, RegistryDenied) as error:
            await self._finish(item, "failed", str(error))
            raise stopped_by(error) from error
        except RegistryError as error:
            await self._give_up(item, error)
            return False
        self._away = 0
        freed = await self._forget(item, date, frees)
        self._outcome.images.append(deleted(item, freed))
        return True

    async def _delete_now(self, item: Item, frees: int) -> datetime | None:
        """DELETE; where no answer came, the registry is asked whether it did it all the same.

        It may do it yet: what it does not say to be gone is asked for again, later (`quota.late`).
        """
        client = self._tools.client
        try:
            return (await client.delete_manifest(item.repository, item.digest)).date
        except RegistryError as error:
            if not error.retriable:
                raise
            self.unsure[item.key] = frees
            head = await client.head_manifest(item.repository, item.digest)
            if head.exists:
                raise
            del self.unsure[item.key]
            return head.date

    async def _give_up(self, item: Item, error: RegistryError) -> None:
        self.failed.add(item.key)
        self._outcome.failed.append(_failed(item, str(error)))
        await self._finish(item, "failed", str(error))
        self._away = self._away + 1 if isinstance(error, RegistryUnavailable) else 0
        if self._away >= _MOST_AWAY or (self._away and not await self._answers(item, error)):
            raise stopped_by(error) from error

    async def _answers(self, item: Item, error: RegistryError) -> bool:
        """Whether the registry is there, and it is only this that it does not answer for."""
        try:
            await only_this(self._tools.client, error)
            # Its storage, too: `/v2/` is answered without it.
            _ = [tag async for tag in self._tools.client.list_tags(item.repository)]
        except RegistryError:
            return False
        return True

    async def _spare(self, item: Item, stays: Kept) -> None:
        """Leave it alone for the rest of the run, and say so."""
        self.spared[item.key] = stays
        code, reason = stays
        if code != "not_found":  # what is gone already is not kept
            self._outcome.spared.append(
                Spared(item.repository, format_digest(item.digest), item.tags, code, reason)
            )
        await self._finish(item, "skipped", reason)

    async def _must_skip(self, item: Item, content: Content | None) -> Kept | None:
        """A reason not to delete after all: what the plan stood on has changed.

        Whatever holds it went before it, some of it perhaps with another image: all has to be gone.
        """
        if item.registry != DEFAULT_REGISTRY:
            where = f"registry {item.registry} is not the one that can be cleaned"
            return "other_registry", where
        async with self._tools.pool.acquire() as connection:
            newest = await reading.newest_sign(connection, item.repository_id, item.digest)
            needed = await reading.needed_by_an_index(connection, item.repository_id, item.digest)
            back = await reading.subject_exists(
                connection, item.repository_id, item.digest, _subjects(item, content)
            ) or await reading.tag_answers(
                connection, item.repository_id, item.digest, _tags_named(item, content)
            )
        if newest is None:
            return "not_found", "it is gone already"
        if newest != item.push_ns:
            return "pushed_again", "it was pushed again after the plan was made"
        if needed:
            index = "an index needs it that was pushed after the plan was made, or stays after all"
            return "child_of_index", index
        if back:
            return "follows_image", "it belongs to an image that is there again, or stays after all"
        return None

    async def _leased(
        self, unit: Sequence[Item], contents: Mapping[ManifestKey, Content | None]
    ) -> set[ManifestKey]:
        """What of it is in use: a lease reported after the plan was made counts as well.

        As in the plan, an image is also in use under the name of its config, a layer or a child.
        """
        names = {item.key: set(_names(item, contents.get(item.key))) for item in unit}
        async with self._tools.pool.acquire() as connection:
            leases = await leases_of(
                connection, self._workspace_id, set[bytes]().union(*names.values())
            )
        now = self._tools.clock()
        stale = next((lease for lease in leases if lease.stale(now)), None)
        if stale is not None:
            raise StopError("stale_lease", f"lease source {stale.source} stopped reporting")
        in_use = {digest for lease in leases for digest in lease.digests}
        return {item.key for item in unit if not in_use.isdisjoint(names[item.key])}

    async def _keep_document(self, item: Item, content: Content | None) -> int:
        """Keep the bytes and write down that the DELETE comes next, under our lease.

        Returns what the account is going to fall by, as far as it is known now.
        """
        document: bytes | None = None
        media_type: str | None = None
        try:
            fetched = await self._tools.client.get_manifest(item.repository, item.digest)
            document, media_type = fetched.body, fetched.media_type
        except NotFound:
            pass  # gone already: there is nothing to restore, and DELETE will say the same
        named = {item.digest, *(() if content is None else (d for d, _size in content.blobs))}
        async with self._tools.pool.acquire() as connection:
            held = await reading.held(connection, self._workspace_id, named)
            own = {item.digest, *reading.blobs_held(content, held)}
            frees = sum(held[d].size for d in own if d in held and held[d].refs == 1)
            ours = await runs.about_to_delete(
                connection,
                self._lease,
                item.position,
                document=document,
                media_type=media_type,
                frees_bytes=frees,
            )
        if not ours:
            raise StopError("run_taken_over", "the run was taken over by another process")
        return frees

    async def _forget(self, item: Item, date: datetime | None, frees: int) -> int:
        """Ledger, audit and events in one transaction; returns the bytes that it freed."""
        now = self._tools.clock()
        answered_at = now if date is None else date
        facts = own_delete(item, answered_at, self._tools.new_id)
        gone_ns = to_ns(answered_at) + SECOND_NS

        def freed(recorded: Recorded) -> int:
            # The registry's own delete event may be faster than we are: then the account has fallen
            # already, by what it held just before.
            if (item.repository_id, item.digest) not in recorded.gone:
                return frees
            return recorded.freed(self._workspace_id)

        async def audit(connection: Connection, recorded: Recorded) -> None:
            await runs.finish_item(
                connection,
                self._lease.run_id,
                item.position,
                state="deleted",
                freed_bytes=freed(recorded),
                gone_ns=gone_ns,
                now=now,
            )

        recorded = await self._tools.recorder.record(facts, now=now, source="cleanup", within=audit)
        self._tell("image_deleted", item, freed_bytes=freed(recorded), why=item.why)
        return freed(recorded)

    def _tell(self, event: str, item: Item, **more: Any) -> None:
        (log.warning if event == "image_not_deleted" else log.info)(
            event,
            workspace=self._workspace,
            repository=item.repository,
            digest=format_digest(item.digest),
            tags=list(item.tags),
            run=str(self._lease.run_id),
            **more,
        )

    async def _finish(self, item: Item, state: str, reason: str) -> None:
        async with self._tools.pool.acquire() as connection:
            await runs.finish_item(
                connection,
                self._lease.run_id,
                item.position,
                state=state,
                failure=reason,
                unsure_bytes=self.unsure.get(item.key),
                now=self._tools.clock(),
            )
        self._tell("image_not_deleted" if state == "failed" else "image_stays", item, reason=reason)


def own_delete(item: Item, date: datetime, new_id: Callable[[], UUID]) -> list[Fact]:
    """That our DELETE took a manifest; the registry's clock said `date` then.

    Just after the newest push that we knew: a push that we had not seen revives the manifest, and the
    registry's own delete event raises the stamp to its true time. A push far ahead of its time is void.
    """
    where = (DEFAULT_REGISTRY, item.repository)
    fact = ManifestDeleted(*where, item.digest, just_after(item.push_ns))
    if not contradicts(date, item.push_ns):
        return [fact]
    above = (to_ns(date), new_id().bytes)
    return [Ceiling(*where, above, above[0] - SECOND_NS, digest=item.digest), fact]


def contents_of(snapshot: Snapshot) -> dict[ManifestKey, Content | None]:
    """What manifests refer to, also of indexes that are gone."""
    return {
        (view.registry, view.repository, view.digest): view.content for view in snapshot.manifests
    }


def _names(item: Item, content: Content | None) -> Iterator[bytes]:
    """Digests under which a lease may know a manifest: its own, and those of what it holds."""
    yield item.digest
    if content is not None:
        yield from content.children
        yield from (digest for digest, _size in content.blobs)


def deleted(item: Item, freed: int) -> Deleted:
    """As the run's outcome tells it."""
    return Deleted(
        repository=item.repository,
        app=item.app,
        digest=format_digest(item.digest),
        tags=item.tags,
        freed_bytes=freed,
        why=item.why,
        code=item.code,
    )


def _failed(item: Item, reason: str) -> Failed:
    return Failed(item.repository, format_digest(item.digest), reason)


def _subjects(item: Item, content: Content | None) -> list[tuple[int, bytes]]:
    """What it says to belong to, by field or by tag: (length of the digest, its first bytes)."""
    found = [named for tag in item.tags if (named := subject_of_tag(tag)) is not None]
    if content is not None and content.subject is not None:
        found.append((len(content.subject), content.subject))
    return found


def _tags_named(item: Item, content: Content | None) -> list[str]:
    """Tags of what it may belong to by convention: `1.4` of an SBOM `1.4-sbom`."""
    kind = None if content is None else of_content(item.media_type, content)
    return all_tags_named_by(item.tags) if may_follow(kind) else []


def _holders(
    item: Item, unit: Sequence[Item], contents: Mapping[ManifestKey, Content | None]
) -> list[Item]:
    """What of its unit has the manifest as a child, or is its subject (by field or by tag)."""
    subjects = _subjects(item, contents.get(item.key))
    named = set(_tags_named(item, contents.get(item.key)))
    found = []
    for other in unit:
        content = contents.get(other.key)
        if (
            (content is not None and item.digest in content.children)
            or any(
                len(other.digest) == length and other.digest.startswith(prefix)
                for length, prefix in subjects
            )
            or (other.key != item.key and not named.isdisjoint(other.tags))
        ):
            found.append(other)
    return found
