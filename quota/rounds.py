"""What a whole cleanup would come to: its plans one after another, each on what the last one left. PURE.

A cleanup plans again until the target is reached or nothing more may go (`quota.cleaning`). Whoever
only asks gets the same, without a DELETE.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from quota.outcome import Deleted
from quota.plan import Manifest, ManifestKey, Plan, PlanInput
from quota.planner import make_plan
from registry.names import format_digest

_MOST: Final = 50
"""Plans of one cleanup; each deletes something, and the second one mostly has nothing left."""


def rounds(source: PlanInput, first: Plan) -> Iterator[tuple[PlanInput, Plan]]:
    """Each plan with what it was made from; the last one deletes nothing, or is refused."""
    plan = first
    for _ in range(_MOST):
        yield source, plan
        if not plan.steps:
            return
        source = after(source, plan)
        plan = make_plan(source)


def after(source: PlanInput, plan: Plan) -> PlanInput:
    """The workspace when all of a plan has been deleted."""
    gone = {manifest.key for manifest in plan.steps}
    left = _let_go(source, gone)
    remaining = tuple(
        replace(manifest, unreferenced_since_ns=source.now_ns) if manifest.key in left else manifest
        for manifest in source.manifests
        if manifest.key not in gone
    )
    freed = _freed(source, gone)
    returning = source.incoming_digests & freed
    return replace(
        source,
        manifests=remaining,
        usage_bytes=source.usage_bytes - sum(source.sizes[digest] for digest in freed),
        incoming_bytes=source.incoming_bytes + sum(source.sizes[digest] for digest in returning),
        incoming_digests=source.incoming_digests - returning,
        deleted_before=source.deleted_before + (0 if plan.blocks else len(plan.units)),
    )


def rehearsed(source: PlanInput, plans: Sequence[Plan]) -> tuple[list[Deleted], frozenset[bytes]]:
    """What the plans would delete, as a run reports it, and what the account holds no more then."""
    images = []
    steps: set[ManifestKey] = set()
    for plan in plans:
        decisions = {decision.manifest.key: decision for decision in plan.decisions}
        for manifest in plan.steps:
            decision = decisions[manifest.key]
            steps.add(manifest.key)
            images.append(
                Deleted(
                    repository=manifest.repository,
                    app=manifest.app,
                    digest=format_digest(manifest.digest),
                    tags=manifest.tags,
                    freed_bytes=decision.freed_bytes,
                    why=decision.sentence,
                    code=decision.why,
                )
            )
    return images, _freed(source, steps)


def _freed(source: PlanInput, gone: set[ManifestKey]) -> frozenset[bytes]:
    """What the account holds no more when these have been deleted."""
    manifests = source.manifests
    return frozenset(
        _held(m for m in manifests if m.key in gone)
        - _held(m for m in manifests if m.key not in gone)
    )


def _held(manifests: Iterable[Manifest]) -> set[bytes]:
    return {digest for m in manifests for digest in (m.digest, *m.blobs)}


def _let_go(source: PlanInput, gone: set[ManifestKey]) -> set[ManifestKey]:
    """Children of deleted indexes, in their own repositories."""
    return {
        (*manifest.key[:2], child)
        for manifest in source.manifests
        if manifest.key in gone
        for child in manifest.children
    }
