"""What would be cleaned next, for people: the planner's own plan, cut to what a page shows."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from quota.decision import target_bytes
from quota.images import kind_fields
from quota.plan import Plan
from quota.reasons import KEPT_AS
from quota.snapshot import Snapshot
from registry.names import format_digest

MOST_SHOWN = 100
_MOST_REMEMBERED = 20_000
_MOST_UNREADABLE = 5


class Candidate(msgspec.Struct, frozen=True):
    """An image that would go, with everything that goes with it."""

    repository: str
    app: str
    digest: str
    kind: str | None
    artifact_type: str | None
    tags: tuple[str, ...]
    manifests: int
    freed_bytes: int
    why: str


class Preview(msgspec.Struct, frozen=True):
    """A dry run. Bytes."""

    candidates: tuple[Candidate, ...]
    """In the order of deletion, the first `MOST_SHOWN` of them."""
    total: int
    freed_bytes: int
    projected_bytes: int
    """Usage and what is reserved."""
    usage_after_bytes: int
    target_bytes: int
    target_reached: bool
    why_not: str | None
    refused: tuple[str, ...]
    """Why nothing may be deleted at all, as sentences."""
    warnings: tuple[str, ...]
    kept: Mapping[str, int]
    """What stays and how many manifests, in words."""
    made_at: datetime
    going: frozenset[tuple[str, str]]
    """(repository, digest) of everything that would go; empty where nothing may."""
    protections: Mapping[tuple[str, str], str]
    """(repository, digest) → the reason's code, of what a rule keeps; empty for large workspaces."""


def _unreadable(snapshot: Snapshot) -> list[str]:
    """What cannot be pulled, as far as it was asked for; a sentence each."""
    views = snapshot.by_key()
    told = [
        f"{views[key].repository}:{', '.join(views[key].tags) or format_digest(key[2])[:19]} cannot be"
        f" pulled, so it holds no place: {why}. Push it again."
        for key, why in snapshot.unreadable.items()
        if key in views
    ]
    more = len(told) - _MOST_UNREADABLE
    return [*told[:_MOST_UNREADABLE], *([f"And {more} more cannot be pulled."] if more > 0 else [])]


def preview_of(snapshot: Snapshot, plan: Plan) -> Preview:
    """What a page shows of a plan."""
    return Preview(
        candidates=tuple(
            Candidate(
                repository=unit.manifest.repository,
                app=unit.manifest.app,
                digest=format_digest(unit.manifest.digest),
                **kind_fields(unit.manifest.kind),
                tags=tuple(unit.manifest.tags),
                manifests=len(unit.members),
                freed_bytes=unit.freed_bytes,
                why=unit.sentence.removeprefix("deleted: "),
            )
            for unit in plan.units[:MOST_SHOWN]
        ),
        total=len(plan.units),
        freed_bytes=plan.freed_bytes,
        projected_bytes=snapshot.projected_bytes,
        usage_after_bytes=plan.usage_after_bytes,
        target_bytes=target_bytes(snapshot.workspace.quota_bytes, snapshot.policy),
        target_reached=plan.target_reached,
        why_not=plan.why_not,
        refused=tuple(block.sentence for block in plan.blocks),
        warnings=(
            *_unreadable(snapshot),
            *(block.sentence for block in (*plan.warnings, *plan.notes)),
        ),
        kept={
            KEPT_AS[why]: count
            for why, count in sorted(plan.kept_by.items(), key=lambda item: -item[1])
            if why in KEPT_AS
        },
        made_at=snapshot.now,
        going=frozenset((step.repository, format_digest(step.digest)) for step in plan.steps),
        protections=_protections(plan),
    )


def _protections(plan: Plan) -> dict[tuple[str, str], str]:
    if len(plan.decisions) > _MOST_REMEMBERED:
        return {}
    return {
        (decision.manifest.repository, format_digest(decision.manifest.digest)): decision.why
        for decision in plan.decisions
        if decision.keep and decision.why in KEPT_AS and decision.why != "frees_nothing"
    }
