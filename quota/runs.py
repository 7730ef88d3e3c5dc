"""Cleanups that a person or program asks for: plans that are stored, runs, and the record of both."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from ledger import plans, reading
from ledger import runs as rows
from ledger.plans import StoredPlan
from ledger.reading import WorkspaceView
from ledger.runs import AlreadyRunningError
from quota import reasons
from quota.cleanup import Cleaner
from quota.decision import target_bytes
from quota.images import kind_fields
from quota.outcome import Outcome, PlanChangedError
from quota.plan import Decision, Manifest, Plan
from quota.snapshot import Incoming, Snapshot
from quota.stored import Steps, steps_of
from registry.names import format_digest
from runtime.aside import aside
from runtime.postgres import Pool

PLAN_TTL = timedelta(minutes=15)
"""For how long a stored plan may be carried out."""
_ASK_SECONDS = 5.0
"""For what the registry is asked before a plan is stored; without its word the plan is made all the same."""
_WARNINGS = {
    "registry_not_asked": "the registry could not be asked in time; carrying the plan out asks it",
    "blobs_elsewhere": "the registry sends who reads a blob to object storage at a host that is not "
    "allowed, so neither the age of what a pass found is known, nor whether the images that stay can be "
    "pulled, and nothing goes: name it in RQ_REGISTRY_REDIRECT_HOSTS and reconcile (`registry-quota doctor` "
    "says which host)",
    "image_unreadable": "it cannot be pulled, so it holds no place: pushing it again mends it",
    "doubted": "the registry gives no clear answer about it, so what depends on it stays; each such image"
    " says why",
    "images_not_found": "the registry answers for no tag of some images: they count among no newest",
}
_MOST_NAMED = 5
_BEGIN_LOOK_SECONDS = 0.05
"""Between two looks whether a run has begun."""


class NoSuchPlanError(Exception):
    """There is no such plan in this workspace."""


class PlanExpiredError(Exception):
    """The plan is too old to be carried out; make another one."""


class PlanRefusedError(Exception):
    """The plan cannot be carried out: `reasons` says why, a sentence each."""

    def __init__(self, detail: str, reasons: list[str]) -> None:
        super().__init__(detail)
        self.reasons = reasons


class PlannedBuild(msgspec.Struct, frozen=True):
    """The build that a plan makes room for; bytes."""

    incoming_bytes: int = 0
    build_id: str | None = None
    """What is reserved under it is not counted beside its incoming bytes."""


_NO_BUILD: Final = PlannedBuild()


class Runs:
    """Plans, starts and remembers cleanups."""

    def __init__(
        self,
        pool: Pool,
        cleaner: Cleaner,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._cleaner = cleaner
        self._clock = clock
        self._new_id = new_id

    async def plan(
        self, view: WorkspaceView, build: PlannedBuild = _NO_BUILD, *, by: str
    ) -> dict[str, Any]:
        """A dry run, stored for 15 minutes: every image with keep or delete, why, and the bytes.

        `by`: who asks. Of each only so many plans are kept.
        """
        incoming = await self._incoming(view, build)
        planned = await self._cleaner.plan_asked(view.name, incoming, seconds=_ASK_SECONDS)
        if planned is None:  # pragma: no cover - the view was read a moment ago
            raise LookupError(view.name)
        snapshot, plan, warnings = planned
        now = self._clock()
        stored, document = await asyncio.to_thread(
            _to_store, snapshot, plan, warnings, build, identifier=self._new_id(), now=now
        )
        async with self._pool.acquire() as connection, connection.transaction():
            await plans.add_plan(connection, view.id, stored, by)
        return _head(stored) | document

    async def stored_plan(self, view: WorkspaceView, plan_id: UUID) -> dict[str, Any]:
        """A plan as it was made, and whether it was carried out. Raises NoSuchPlanError."""
        found = await self._find_plan(view, plan_id)
        return _head(found) | await aside(len(found.document), _read_document, found.document)

    async def _find_plan(self, view: WorkspaceView, plan_id: UUID) -> StoredPlan:
        async with self._pool.acquire() as connection:
            found = await plans.plan_of(connection, view.id, plan_id)
        if found is None:
            raise NoSuchPlanError
        return found

    async def clean(self, view: WorkspaceView, timeout_s: float) -> Outcome:
        """Clean now, towards the target; what is not done within the time goes on behind."""
        task, outcome, _own = self._cleaner.start(
            view.name, Incoming(reserved_bytes=view.reserved_bytes), cause="asked for"
        )
        await asyncio.wait([task], timeout=timeout_s)
        return task.result() if task.done() else outcome

    async def apply(
        self, view: WorkspaceView, plan_id: UUID, timeout_s: float, *, begin_only: bool = False
    ) -> Outcome:
        """Carry out a stored plan as it was shown, after checking that it still holds.

        With `begin_only` it is waited for until its run is on record (or it has ended), no longer.
        Raises NoSuchPlanError, PlanExpiredError, PlanRefusedError; nothing was deleted then.
        """
        stored = await self._find_plan(view, plan_id)
        if stored.run_id is not None:
            raise PlanRefusedError(
                f"the plan was carried out already, by run {stored.run_id}",
                [f"carried out by run {stored.run_id}"],
            )
        if stored.expires_at <= self._clock():
            raise PlanExpiredError
        steps = await aside(
            len(stored.steps), lambda: msgspec.json.decode(stored.steps, type=Steps)
        )
        if steps.blocks:
            sentences = [sentence for _code, sentence in steps.blocks]
            raise PlanRefusedError(f"the plan is refused: {'; '.join(sentences)}", sentences)
        if not steps.units:
            document = msgspec.json.decode(stored.document)
            return Outcome(done=True, target_reached=document["target_reached"])
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        incoming = await self._incoming(
            view, msgspec.json.decode(stored.document, type=PlannedBuild)
        )
        try:
            task, outcome = await self._cleaner.apply(
                view.name, incoming, plan_id, steps, cause="plan", wait_s=timeout_s
            )
        except AlreadyRunningError as error:
            raise PlanRefusedError(
                "another cleanup of the workspace is still running; nothing of the plan was carried"
                " out, apply it when that has ended",
                ["another cleanup of the workspace is still running"],
            ) from error
        while not task.done() and (left := end - loop.time()) > 0:
            if begin_only and outcome.run_id is not None:
                break
            await asyncio.wait(
                [task], timeout=min(left, _BEGIN_LOOK_SECONDS) if begin_only else left
            )
        if not task.done():
            return outcome
        try:
            return task.result()
        except PlanChangedError as error:
            named = "; ".join(error.changes[:_MOST_NAMED])
            if (more := len(error.changes) - _MOST_NAMED) > 0:
                named += f"; and {more} more"
            raise PlanRefusedError(
                f"the plan does not hold any more: {named}", error.changes
            ) from error

    async def _incoming(self, view: WorkspaceView, build: PlannedBuild) -> Incoming:
        """What a build brings, and what is reserved for the others."""
        reserved = view.reserved_bytes
        if build.build_id is not None:
            async with self._pool.acquire() as connection:
                others = await reading.find_workspace(
                    connection, view.name, now=self._clock(), except_build=build.build_id
                )
            reserved = reserved if others is None else others.reserved_bytes
        return Incoming(incoming_bytes=build.incoming_bytes, reserved_bytes=reserved)

    async def list(
        self, view: WorkspaceView, limit: int, *, before: UUID | None = None
    ) -> list[dict[str, Any]]:
        """Runs, newest first; those that began before a run."""
        async with self._pool.acquire() as connection:
            found = await rows.runs_of(connection, view.id, limit, before=before)
        return [_run(row) for row in found]

    async def get(self, view: WorkspaceView, run_id: UUID) -> dict[str, Any] | None:
        """One run with what became of each image."""
        async with self._pool.acquire() as connection:
            row = await rows.run_of(connection, view.id, run_id)
        if row is None:
            return None
        items = [{**item, "digest": format_digest(item["digest"])} for item in row.pop("items")]
        return {**_run(row), "items": items}


def _to_store(
    snapshot: Snapshot,
    plan: Plan,
    warnings: Sequence[str],
    build: PlannedBuild,
    *,
    identifier: UUID,
    now: datetime,
) -> tuple[StoredPlan, dict[str, Any]]:
    """What is kept of a plan, and what its caller is told beside its head."""
    document = _document(snapshot, plan, warnings) | {"build_id": build.build_id}
    steps = msgspec.json.encode(steps_of(plan, snapshot.known_ns()))
    kept = msgspec.json.encode(document)
    return StoredPlan(identifier, steps, kept, None, now, now + PLAN_TTL), document


def _head(stored: StoredPlan) -> dict[str, Any]:
    return {
        "id": str(stored.id),
        "made_at": stored.made_at,
        "expires_at": stored.expires_at,
        "run_id": None if stored.run_id is None else str(stored.run_id),
    }


def _run(row: dict[str, Any]) -> dict[str, Any]:
    plan_id = row["plan_id"]
    return {**row, "id": str(row["id"]), "plan_id": None if plan_id is None else str(plan_id)}


def _warning(warning: str, plan: Plan) -> dict[str, str]:
    """A run's warning in words; some have a name behind a colon."""
    code, _colon, name = warning.partition(":")
    why = _WARNINGS[code]
    if code == "registry_not_asked" and plan.places:
        held = ", ".join(reasons.name_of(manifest) for manifest in plan.places[:_MOST_NAMED])
        more = len(plan.places) - _MOST_NAMED
        why += f", first whether what holds the protected places can be pulled: {held}"
        why += f" and {more} more" if more > 0 else ""
    return {"code": code, "why": f"{name}: {why}" if name else why}


_MOMENTS: Final = frozenset({"pushed_at", "last_pulled_at", "reported_at"})
"""Times in a plan's document: JSON keeps them as text."""


def _read_document(kept: bytes) -> dict[str, Any]:
    """As `_document` made it."""
    document: dict[str, Any] = msgspec.json.decode(kept)
    for item in (*document["images"], *document["lease_sources"]):
        for name in _MOMENTS & item.keys():
            item[name] = item[name] and datetime.fromisoformat(item[name])
    return document


def _document(snapshot: Snapshot, plan: Plan, warnings: Sequence[str]) -> dict[str, Any]:
    heads = {member.key: unit.manifest for unit in plan.units for member in unit.members[1:]}
    users: dict[bytes, list[str]] = {}
    for lease in snapshot.leases:
        for digest in lease.digests:
            users.setdefault(digest, []).append(lease.source)
    return {
        "workspace": plan.workspace,
        "usage_bytes": plan.usage_before_bytes,
        "usage_after_bytes": plan.usage_after_bytes,
        "reserved_bytes": snapshot.incoming.reserved_bytes,
        "incoming_bytes": snapshot.incoming.incoming_bytes,
        "target_bytes": target_bytes(snapshot.workspace.quota_bytes, snapshot.policy),
        "freed_bytes": plan.freed_bytes,
        "target_reached": plan.target_reached,
        "why_not": plan.why_not,
        "blocks": [{"code": block.code, "why": block.sentence} for block in plan.blocks],
        "warnings": [
            {"code": block.code, "why": block.sentence} for block in (*plan.warnings, *plan.notes)
        ]
        + [_warning(warning, plan) for warning in warnings],
        "lease_sources": [
            {
                "source": lease.source,
                "reported_at": lease.reported_at,
                "stale": lease.stale(snapshot.now),
            }
            for lease in snapshot.leases
        ],
        "images": [
            _planned(decision, heads.get(decision.manifest.key), users)
            for decision in plan.as_listed
        ],
    }


def _planned(
    decision: Decision, head: Manifest | None, users: Mapping[bytes, Sequence[str]]
) -> dict[str, Any]:
    """A manifest of a plan; `head` is the image that takes it along, `users` are of leased digests."""
    manifest = decision.manifest
    names = (manifest.digest, *manifest.blobs, *manifest.children) if users else ()
    return {
        "repository": manifest.repository,
        "app": manifest.app,
        "digest": format_digest(manifest.digest),
        **kind_fields(manifest.kind),
        "tags": list(manifest.tags),
        "action": "keep" if decision.keep else "delete",
        "code": decision.why,
        "why": decision.sentence,
        "freed_bytes": decision.freed_bytes,
        "goes_with": None if head is None else format_digest(head.digest),
        "pushed_at": _moment(manifest.pushed_at_ns) if manifest.age_known else None,
        "last_pulled_at": (
            None if manifest.last_pulled_at_ns is None else _moment(manifest.last_pulled_at_ns)
        ),
        "used_by": sorted({source for name in names for source in users.get(name, ())}),
    }


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 10**9, UTC)
