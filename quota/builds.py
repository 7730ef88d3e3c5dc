"""A build that asks for room, and what its workspace looks like to it."""

from datetime import datetime
from typing import Literal, cast

import msgspec

from ledger import apps, outbox, reading
from ledger.outbox import QuotaEvent
from ledger.reading import WorkspaceView
from ledger.reservations import MOST_OPEN
from quota.decision import Enforcement, Figures, Verdict
from quota.incoming import incoming_from_layers, percentile_90
from quota.outcome import Outcome
from quota.policy import DEFAULT_POLICY, Policy, parse_policy
from quota.snapshot import Incoming
from runtime.postgres import Connection

IncomingSource = Literal["layers", "request", "estimate", "none"]
LargestApps = list[tuple[str, int]]
"""(app, bytes), the largest first."""


class PreBuild(msgspec.Struct, frozen=True):
    """A build that is about to start. Bytes and seconds."""

    workspace: str
    app: str | None = None
    build_id: str | None = None
    incoming_bytes: int | None = None
    layers: tuple[tuple[bytes, int], ...] | None = None
    """(digest, size)"""
    dry_run: bool = False
    timeout_s: float = 60.0
    among: frozenset[str] | None = None
    """Workspaces that the caller may hear of; None: all."""

    @property
    def reserves(self) -> bool:
        """Whether bytes are set aside for it when it may proceed."""
        return self.build_id is not None and not self.dry_run


class Look(msgspec.Struct, frozen=True):
    """One look at the workspace."""

    view: WorkspaceView | None
    policy: Policy
    figures: Figures
    incoming: Incoming
    source: IncomingSource

    @property
    def may_reserve(self) -> bool:
        """Whether one more build may have its bytes set aside."""
        others = 0 if self.view is None else self.view.reservations
        return self.figures.can_be_reserved and others < MOST_OPEN

    @property
    def enforcement(self) -> Enforcement:
        """That of the workspace; advisory where nobody knows it yet."""
        return "advisory" if self.view is None else cast("Enforcement", self.view.enforcement)


async def look(
    connection: Connection,
    build: PreBuild,
    *,
    now: datetime,
    default_quota_bytes: int,
    without: Outcome | None = None,
) -> Look:
    """Read what the decision needs: one statement, and one more where incoming bytes are looked up.

    `without`: a rehearsal's outcome; the figures are those that it would leave.
    """
    view = await reading.find_workspace(
        connection, build.workspace, now=now, except_build=build.build_id
    )
    reserved = 0 if view is None else view.reserved_bytes
    let_go = frozenset() if without is None else without.let_go
    freed = 0 if without is None else without.freed_bytes
    incoming_bytes, source, held = await _incoming(connection, build, view, let_go)
    return Look(
        view=view,
        policy=DEFAULT_POLICY if view is None else parse_policy(view.policy),
        figures=Figures(
            usage_bytes=0 if view is None else max(view.usage_bytes - freed, 0),
            reserved_bytes=reserved,
            incoming_bytes=incoming_bytes,
            quota_bytes=default_quota_bytes if view is None else view.quota_bytes,
        ),
        incoming=Incoming(incoming_bytes=incoming_bytes, reserved_bytes=reserved, digests=held),
        source=source,
    )


def told(build: PreBuild) -> tuple[int, IncomingSource]:
    """The incoming bytes as far as the caller told them."""
    if build.layers is not None:
        return incoming_from_layers(build.layers, frozenset()), "layers"
    if build.incoming_bytes is not None:
        return build.incoming_bytes, "request"
    return 0, "none"


def denial(
    view: WorkspaceView, build: PreBuild, figures: Figures, verdict: Verdict, largest: LargestApps
) -> QuotaEvent:
    """The event that says why a build was denied."""
    return QuotaEvent(
        view.id,
        view.name,
        outbox.BUILD_DENIED,
        {
            "build_id": build.build_id,
            "app": build.app,
            "reason": verdict.reason,
            "message": verdict.message,
            "usage_bytes": figures.usage_bytes,
            "reserved_bytes": figures.reserved_bytes,
            "incoming_bytes": figures.incoming_bytes,
            "quota_bytes": figures.quota_bytes,
            "missing_bytes": max(0, figures.total_bytes - figures.quota_bytes),
            "largest_apps": [{"app": app, "bytes": size} for app, size in largest],
        },
    )


async def _incoming(
    connection: Connection, build: PreBuild, view: WorkspaceView | None, let_go: frozenset[bytes]
) -> tuple[int, IncomingSource, frozenset[bytes]]:
    """(bytes, source, layers held already): layers, else a plain number, else what is usual.

    `let_go`: digests that count as held no more.
    """
    if build.layers is not None and view is not None:
        known = await reading.held(connection, view.id, {digest for digest, _size in build.layers})
        held = frozenset(digest for digest, entry in known.items() if entry.refs > 0) - let_go
        return incoming_from_layers(build.layers, held), "layers", held
    if told(build)[1] == "none" and view is not None and build.app is not None:
        usual = percentile_90(await apps.usual_pushes(connection, view.id, build.app))
        if usual is not None:
            return usual, "estimate", frozenset()
    return *told(build), frozenset()
