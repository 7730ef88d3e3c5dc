"""A plan that was shown to somebody: what of it is stored, and whether it still holds. PURE.

It holds when a plan made now would delete the same images, each with the same tags and with the
same that goes along, and freeing the same bytes. What a new plan would delete beside them is left
alone: only what was shown is carried out.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from quota import reasons
from quota.plan import Decision, Manifest, ManifestKey, Plan, Unit
from quota.words import format_bytes

_MOST_CHANGES_TOLD: Final = 20


class Member(msgspec.Struct, frozen=True):
    """A manifest that would be deleted. Bytes; nanoseconds."""

    registry: str
    repository: str
    digest: bytes
    tags: tuple[str, ...]
    known_ns: int
    """Newest sign of it when the plan was made."""
    code: str
    why: str
    freed_bytes: int

    @property
    def key(self) -> ManifestKey:
        """What names it in the workspace."""
        return (self.registry, self.repository, self.digest)


class Steps(msgspec.Struct, frozen=True):
    """What a plan would delete, unit by unit, and what refuses it."""

    units: tuple[tuple[Member, ...], ...]
    blocks: tuple[tuple[str, str], ...]
    """(code, sentence)"""

    @property
    def freed_bytes(self) -> int:
        """The promise."""
        return sum(member.freed_bytes for unit in self.units for member in unit)


def steps_of(plan: Plan, known_ns: Mapping[ManifestKey, int]) -> Steps:
    """What has to be kept of a plan. `known_ns`: the newest sign of each manifest."""
    decisions = {decision.manifest.key: decision for decision in plan.decisions}
    return Steps(
        tuple(
            tuple(_member(decisions[m.key], known_ns[m.key]) for m in unit.members)
            for unit in plan.units
        ),
        tuple((block.code, block.sentence) for block in plan.blocks),
    )


def _member(decision: Decision, known_ns: int) -> Member:
    manifest = decision.manifest
    return Member(
        *manifest.key,
        manifest.tags,
        known_ns,
        decision.why,
        decision.sentence,
        decision.freed_bytes,
    )


def changes(
    steps: Steps,
    plan: Plan,
    known_ns: Mapping[ManifestKey, int],
    holdings: Mapping[bytes, tuple[int, int]],
) -> list[str]:
    """Why the stored steps do not hold under a plan made now; empty when they do.

    `holdings`: digest → (existing manifests that contain it, bytes), for the promise.
    """
    found = [block.sentence for block in plan.blocks]
    units = {unit.manifest.key: unit for unit in plan.units}
    decisions = {decision.manifest.key: decision for decision in plan.decisions}
    for stored in steps.units:
        found += _unit_changes(stored, units.get(stored[0].key), decisions, known_ns)
    if not found:
        found = _promise_changes(steps, decisions, holdings)
    more = len(found) - _MOST_CHANGES_TOLD
    return [*found[:_MOST_CHANGES_TOLD], f"and {more} more"] if more > 0 else found


def _unit_changes(
    stored: Sequence[Member],
    unit: Unit | None,
    decisions: Mapping[ManifestKey, Decision],
    known_ns: Mapping[ManifestKey, int],
) -> list[str]:
    found = []
    for member in stored:
        decision = decisions.get(member.key)
        name = _name(member)
        if decision is None:
            found.append(f"{name} is gone already")
        elif tuple(decision.manifest.tags) != member.tags:
            tags = ", ".join(decision.manifest.tags) or "none"
            found.append(f"{name} has other tags now: {tags}")
        elif known_ns[member.key] != member.known_ns:
            found.append(f"{name} was pushed again")
        elif decision.keep:
            found.append(f"{name} is kept now: {decision.sentence.removeprefix('kept: ')}")
    if found:
        return found
    if unit is None:
        return [f"{_name(stored[0])} would go along with another image now"]
    shown = {member.key for member in stored}
    return [
        f"{reasons.name_of(manifest)} would go along with {_name(stored[0])} now"
        for manifest in unit.members
        if manifest.key not in shown
    ] + [
        f"{_name(member)} would not go along with {_name(stored[0])} any more"
        for member in stored
        if member.key not in {manifest.key for manifest in unit.members}
    ]


def _promise_changes(
    steps: Steps,
    decisions: Mapping[ManifestKey, Decision],
    holdings: Mapping[bytes, tuple[int, int]],
) -> list[str]:
    taken: dict[bytes, int] = {}
    found = []
    for unit in steps.units:
        freed = 0
        for member in unit:
            for digest in _contents(decisions[member.key].manifest):
                taken[digest] = taken.get(digest, 0) + 1
                references, size = holdings[digest]
                if taken[digest] == references:
                    freed += size
        promised = sum(member.freed_bytes for member in unit)
        if freed != promised:
            found.append(
                f"{_name(unit[0])} would free {format_bytes(freed)} now, not {format_bytes(promised)}"
            )
    return found


def _contents(manifest: Manifest) -> set[bytes]:
    return {manifest.digest, *manifest.blobs}


def _name(member: Member) -> str:
    if member.tags:
        return f"{member.repository}:{member.tags[0]}"
    return f"{member.repository}@{member.digest.hex()[:12]}"
