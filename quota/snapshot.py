"""One consistent reading of a workspace, and the planner's view of it."""

import asyncio
from collections.abc import Mapping
from datetime import datetime

import msgspec

from ledger import offsets, reading, unreadable
from ledger.fold import ManifestKey
from ledger.leases import Lease, leases_of
from ledger.reading import Held, ManifestView, WorkspaceView, blobs_held
from quota import plan as planning
from quota.images import digests_of
from quota.kinds import kinds_of
from quota.plan import PlanInput
from quota.policy import Policy, parse_policy
from registry.kinds import Kind
from registry.manifests import might_be_referrer
from registry.media_types import manifest_kind
from registry.timestamps import to_ns
from runtime.postgres import Connection
from runtime.settings import DEFAULT_REGISTRY


class Incoming(msgspec.Struct, frozen=True):
    """A build's share of a plan; `digests` are those of its layers that are held already."""

    incoming_bytes: int = 0
    reserved_bytes: int = 0
    digests: frozenset[bytes] = frozenset()

    def now(self, held: Mapping[bytes, Held]) -> "Incoming":
        """With the layers that were let go since: the build brings them again, and they cost room."""
        gone = {d for d in self.digests if d in held and held[d].refs == 0}
        return Incoming(
            self.incoming_bytes + sum(held[digest].size for digest in gone),
            self.reserved_bytes,
            self.digests - gone,
        )


class Snapshot(msgspec.Struct, frozen=True):
    """A workspace as it was at one moment."""

    workspace: WorkspaceView
    policy: Policy
    incoming: Incoming
    manifests: list[ManifestView]
    held: Mapping[bytes, Held]
    leases: list[Lease]
    now: datetime
    unreadable: Mapping[planning.ManifestKey, str] = {}
    """What cannot be pulled, as far as it was asked for, and why."""
    unanswered: frozenset[tuple[int, str]] = frozenset()
    """(repository id, tag) of the ledger's tags that the registry does not answer."""
    database_older: bool = False
    """Whether an older backup of the database was put back, and no person has looked since."""

    @property
    def projected_bytes(self) -> int:
        """Usage, reserved and incoming together."""
        return (
            self.workspace.usage_bytes + self.incoming.reserved_bytes + self.incoming.incoming_bytes
        )

    def by_key(self) -> dict[planning.ManifestKey, ManifestView]:
        """Existing manifests by the planner's key."""
        return {
            (view.registry, view.repository, view.digest): view
            for view in self.manifests
            if view.present
        }

    def known_ns(self) -> dict[planning.ManifestKey, int]:
        """The newest sign of each existing manifest, in nanoseconds."""
        return {key: view.known_ns for key, view in self.by_key().items()}


async def take_snapshot(
    connection: Connection,
    workspace: str,
    incoming: Incoming,
    *,
    now: datetime,
    unanswered: frozenset[tuple[int, str]] = frozenset(),
) -> Snapshot | None:
    """Read a workspace in one REPEATABLE READ transaction; None when it is not known."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        view = await reading.find_workspace(connection, workspace, now=now)
        if view is None:
            return None
        manifests = await reading.manifests_of(connection, view.id, unanswered=unanswered)
        digests = await asyncio.to_thread(digests_of, manifests)
        held = await reading.held(connection, view.id, digests | incoming.digests)
        leases = await leases_of(connection, view.id)
        broken = {
            (known.registry, known.repository, known.digest): known.reason
            for known in await unreadable.of_workspace(connection, view.id)
        }
        restored = await offsets.restored_at(connection)
    incoming = incoming.now(held)
    policy = parse_policy(view.policy)
    return Snapshot(
        view,
        policy,
        incoming,
        manifests,
        held,
        leases,
        now,
        broken,
        unanswered,
        restored is not None,
    )


def plan_input(
    snapshot: Snapshot,
    failed: frozenset[planning.ManifestKey],
    spared: Mapping[planning.ManifestKey, planning.Kept],
    *,
    not_found: frozenset[planning.ManifestKey] = frozenset(),
    deleted_before: int = 0,
    is_cache: bool = False,
) -> PlanInput:
    """What the planner is given. `deleted_before`: images that the run has deleted already."""
    left = _left_by_parents(snapshot.manifests)
    kinds = kinds_of(
        {(view.repository_id, view.digest): view for view in snapshot.manifests}, snapshot.policy
    )
    leased = {digest for lease in snapshot.leases for digest in lease.digests}
    return PlanInput(
        workspace=snapshot.workspace.name,
        now_ns=to_ns(snapshot.now),
        policy=snapshot.policy,
        quota_bytes=snapshot.workspace.quota_bytes,
        usage_bytes=snapshot.workspace.usage_bytes,
        reserved_bytes=snapshot.incoming.reserved_bytes,
        incoming_bytes=snapshot.incoming.incoming_bytes,
        manifests=tuple(
            _manifest(view, left, snapshot, kinds) for view in snapshot.manifests if view.present
        ),
        sizes={digest: entry.size for digest, entry in snapshot.held.items()},
        incoming_digests=snapshot.incoming.digests,
        in_use=frozenset(leased | _made_of(snapshot, leased)),
        stale_sources=tuple(
            planning.StaleSource(lease.source)
            for lease in snapshot.leases
            if lease.stale(snapshot.now)
        ),
        configured=snapshot.workspace.configured or not snapshot.workspace.found_by_reconciliation,
        is_cache=is_cache,
        database_older=snapshot.database_older,
        failed=failed,
        spared=spared,
        not_found=not_found,
        unreadable=snapshot.unreadable,
        out_of_reach=frozenset({view.registry for view in snapshot.manifests} - {DEFAULT_REGISTRY}),
        deleted_before=deleted_before,
    )


def _made_of(snapshot: Snapshot, leased: set[bytes]) -> set[bytes]:
    """Manifests with a leased config or layer: some runtimes know an image by its config."""
    if not leased:
        return set()
    return {
        view.digest
        for view in snapshot.manifests
        if not leased.isdisjoint(blobs_held(view.content, snapshot.held))
    }


def _manifest(
    view: ManifestView,
    left: Mapping[ManifestKey, int],
    snapshot: Snapshot,
    kinds: Mapping[ManifestKey, Kind | None],
) -> planning.Manifest:
    content = view.content
    claimed = content is not None and content.claimed_ns >= 0
    since = max(view.left_ns, left.get((view.repository_id, view.digest), -1))
    return planning.Manifest(
        registry=view.registry,
        repository=view.repository,
        app=view.app,
        digest=view.digest,
        size=view.size,
        media_type=view.media_type,
        blobs=tuple(blobs_held(content, snapshot.held)),
        children=() if content is None else content.children,
        # What nobody has read yet may be an index.
        is_index=claimed or manifest_kind(view.media_type) == "index",
        subject=None if content is None else content.subject,
        subject_known=_subject_known(view),
        tags=view.tags,
        pushed_at_ns=max(view.age.ns, 0),
        age_known=view.age.ns >= 0,
        # A push that an event told has a time; an image that was found may have an estimate.
        last_push_ns=max(view.pushed_ns, 0),
        last_pulled_at_ns=view.pulled_ns if view.pulled_ns >= 0 else None,
        unreferenced_since_ns=since if since >= 0 else None,
        size_known=content is not None and not claimed,
        kind=kinds[view.repository_id, view.digest],
        latest_ns=view.age.latest_ns if view.age.latest_ns >= 0 else None,
        surely_ns=view.surely_ns if view.surely_ns >= 0 else None,
        unanswered=tuple(
            tag for tag in view.tags if (view.repository_id, tag) in snapshot.unanswered
        ),
    )


def _subject_known(view: ManifestView) -> bool:
    """Whether it is known of what a manifest is a referrer, if of anything."""
    if view.content is None:
        return False
    return view.content.subject_known or not might_be_referrer(
        view.media_type, view.content.config_media_type, tagged=bool(view.tags)
    )


def _left_by_parents(manifests: list[ManifestView]) -> dict[ManifestKey, int]:
    """When the last index that is gone let go of its children: its delete, in nanoseconds."""
    left: dict[ManifestKey, int] = {}
    for view in manifests:
        if view.present or view.content is None:
            continue
        for digest in view.content.children:
            key = (view.repository_id, digest)
            left[key] = max(view.delete_ns, left.get(key, -1))
    return left
