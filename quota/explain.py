"""From what was selected to a plan in which every manifest has its reason. PURE."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from quota import reasons
from quota.graph import Graph
from quota.plan import Block, Decision, Kept, Manifest, Plan, PlanInput, Unit, Why
from quota.protections import Protections, stale_in_repositories
from quota.ranking import Ranking
from quota.words import format_bytes, plural
from registry.kinds import CACHE

_BEYOND_MINIMUM: Final = 3
_WHY_DELETED: Final[tuple[Why, ...]] = ("untagged", "cache", "beyond_newest", "beyond_minimum")
FEW: Final = 2
"""`latest` stays while no more images of its app remain."""
_OBSTACLES_NAMED: Final = 4
_NAMING_STEPS: Final = 8
"""Holders of holders that are looked through for a tag; more than any image has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the planner's loop selected, by manifest number."""

    units: list[list[int]]
    """Deletions in order; a unit begins with its image."""
    kept: dict[int, Kept]
    """Candidates that were refused."""
    ranking: Ranking
    protections: Protections
    candidates: dict[int, int]
    """Candidate → its class: 0 untagged, 1 caches, 2 beyond `keep_newest`, 3 beyond `keep_at_least`."""
    references: list[int]
    """Digest number → references that remain."""
    unresolved: set[int]
    """Manifests whose missing facts kept a candidate."""


def untouched(source: PlanInput, target: int, why: Why, sentence: str) -> Plan:
    """The plan that keeps everything, for one reason."""
    return Plan(
        workspace=source.workspace,
        made_at_ns=source.now_ns,
        usage_before_bytes=source.usage_bytes,
        target_usage_bytes=target,
        units=(),
        decisions=tuple(
            Decision(manifest, keep=True, why=why, sentence=f"kept: {sentence}")
            for manifest in source.manifests
        ),
        blocks=(),
        why_not=None if source.usage_bytes <= target else sentence,
        kept_by=dict.fromkeys([why], len(source.manifests)),
    )


def planned(
    source: PlanInput,
    target: int,
    graph: Graph,
    outcome: Outcome,
    blocks: tuple[Block, ...],
    *,
    fits: bool = False,
) -> Plan:
    """The plan that deletes what was selected. `fits`: the aim was the quota, not the target."""
    return _Explanation(source, target, graph, outcome, fits=fits).plan(blocks)


class _Explanation:
    def __init__(
        self, source: PlanInput, target: int, graph: Graph, outcome: Outcome, *, fits: bool
    ) -> None:
        self._source = source
        self._fits = fits
        self._manifests = source.manifests
        self._target = target
        self._graph = graph
        self._outcome = outcome
        self._gone = {number for unit in outcome.units for number in unit}
        # Groups that had to go below `keep_newest`.
        self._at_minimum = {
            outcome.ranking.group(unit[0])
            for unit in outcome.units
            if outcome.candidates[unit[0]] == _BEYOND_MINIMUM
        }
        self._names: dict[int, str] = {}
        self._sharers = self._find_sharers()
        # Of the account, which the incoming build has no part in yet.
        self._references = list(graph.references)
        for digest in graph.incoming:
            self._references[digest] -= 1

    def plan(self, blocks: tuple[Block, ...]) -> Plan:
        decisions: list[Decision | None] = [None] * len(self._manifests)
        units = []
        for numbers in self._outcome.units:
            unit, decided = self._delete(numbers)
            units.append(unit)
            for number, decision in zip(numbers, decided, strict=True):
                decisions[number] = decision
        won = sum(unit.freed_bytes - unit.returning_bytes for unit in units)
        missing = self._source.usage_bytes - won - self._target
        self._reached = missing <= 0
        kept_by: Counter[Why] = Counter()
        for number, manifest in enumerate(self._manifests):
            if number not in self._gone:
                why, sentence = self._why_kept(number)
                kept_by[why] += 1
                decisions[number] = Decision(
                    manifest, keep=True, why=why, sentence=f"kept: {sentence}"
                )
        return Plan(
            workspace=self._source.workspace,
            made_at_ns=self._source.now_ns,
            usage_before_bytes=self._source.usage_bytes,
            target_usage_bytes=self._target,
            units=tuple(units),
            decisions=tuple(decision for decision in decisions if decision is not None),
            blocks=blocks,
            warnings=stale_in_repositories(self._source),
            why_not=self._why_not(missing, kept_by) if missing > 0 else None,
            kept_by=dict(kept_by),
            places=self._places(),
            unresolved=tuple(self._manifests[n] for n in sorted(self._outcome.unresolved)),
        )

    def _places(self) -> tuple[Manifest, ...]:
        """What an app's protected places rest on, where something of it goes.

        Its newest images, the last untagged one of an app without tags; where `latest` goes also two
        that remain, which it would otherwise stay with.
        """
        ranking, policy = self._outcome.ranking, self._source.policy
        going = {self._manifests[number].app for number in self._gone}
        latest = {
            self._manifests[number].app
            for number in self._gone
            if "latest" in self._manifests[number].tags
        }
        held = []
        for number, manifest in enumerate(self._manifests):
            app = manifest.app
            if app not in going:
                continue
            minimum = ranking.group(number) in self._at_minimum
            kept = policy.keep_at_least if minimum else policy.keep_newest
            if number in ranking.image_of:
                if ranking.rank(number) <= (max(kept, FEW) if app in latest else kept):
                    held.append(manifest)
            elif (refused := self._outcome.kept.get(number)) and refused[0] == "only_image":
                held.append(manifest)
        return tuple(held)

    # Deleted

    def _delete(self, numbers: list[int]) -> tuple[Unit, list[Decision]]:
        graph = self._graph
        freed = []
        returning = 0
        for number in numbers:
            freed.append(0)
            for digest in graph.contents[number]:
                self._references[digest] -= 1
                if self._references[digest] == 0:
                    freed[-1] += graph.sizes[digest]
                    if digest in graph.incoming:
                        returning += graph.sizes[digest]
        head = numbers[0]
        why = _WHY_DELETED[self._outcome.candidates[head]]
        shared, sharers = self._shared(numbers)
        sentence = "deleted: " + reasons.deleted(
            self._place(head),
            len(numbers) - 1,
            sum(freed),
            returning,
            shared,
            sharers,
        )
        decisions = [self._deleted(head, why, sentence, freed[0])]
        decisions += [
            self._goes_along(number, size)
            for number, size in zip(numbers[1:], freed[1:], strict=True)
        ]
        members = tuple(self._manifests[number] for number in numbers)
        return Unit(members[0], members, why, sentence, sum(freed), shared, returning), decisions

    def _goes_along(self, number: int, freed: int) -> Decision:
        parents = self._graph.parents.get(number)
        holder = min(parents or self._graph.subjects[number])
        why: Why = "goes_with_index" if parents else "goes_with_image"
        sentence = reasons.goes_along(why, self._name(holder), freed)
        return self._deleted(number, why, f"deleted: {sentence}", freed)

    def _deleted(self, number: int, why: Why, sentence: str, freed: int) -> Decision:
        return Decision(
            self._manifests[number], keep=False, why=why, sentence=sentence, freed_bytes=freed
        )

    def _shared(self, numbers: list[int]) -> tuple[int, list[str]]:
        """Bytes of a unit that stay, and with whom, the largest share first."""
        stay = {
            digest
            for number in numbers
            for digest in self._graph.contents[number]
            if digest in self._sharers
        }
        shares: Counter[str] = Counter()
        for digest in sorted(stay):
            shares[self._name(self._sharers[digest])] += self._graph.sizes[digest]
        return sum(shares.values()), [name for name, _ in shares.most_common()]

    def _find_sharers(self) -> dict[int, int]:
        """Digest of something deleted → a manifest that stays and contains it, tagged if any is."""
        left, contents = self._outcome.references, self._graph.contents
        wanted = {d for number in self._gone for d in contents[number] if left[d] > 0}
        found: dict[int, int] = {}
        if wanted:
            for number in self._kept_tagged_first():
                for digest in contents[number]:
                    if digest in wanted:
                        found.setdefault(digest, number)
        return found

    def _kept_tagged_first(self) -> Iterator[int]:
        for tagged in (True, False):
            for number, manifest in enumerate(self._manifests):
                if bool(manifest.tags) is tagged and number not in self._gone:
                    yield number

    def _name(self, number: int) -> str:
        """A manifest's name; of something untagged that of what holds it, where that has a tag."""
        name = self._names.get(number)
        if name is None:
            name = reasons.name_of(self._manifests[self._tagged_holder(number)])
            self._names[number] = name
        return name

    def _tagged_holder(self, number: int) -> int:
        above = number
        for _ in range(_NAMING_STEPS):
            if self._manifests[above].tags:
                return above
            holders = self._graph.holders(above)
            if not holders:
                break
            above = min(holders)
        return number

    # Kept

    def _why_kept(self, number: int) -> Kept:
        outcome, graph = self._outcome, self._graph
        spared = self._source.spared.get(self._manifests[number].key)
        if spared is not None and spared[0] == "doubted":
            return spared
        holders = graph.holders(number) - self._gone
        if holders:
            return self._held(number, holders)
        if graph.own_tags[number]:
            newest = self._newest(number)
            if newest is not None:
                return newest
        refused = outcome.kept.get(number)
        if refused is not None:
            return refused
        protections = outcome.protections
        if number not in outcome.candidates:
            # Its tags name a subject that is not here (or itself).
            return protections.of(number) or ("subject_missing", "it refers to another manifest")
        tagged = bool(graph.own_tags[number])
        protected = protections.tagged(number) if tagged else protections.untagged(number)
        if protected is not None:
            return protected
        if not self._reached:
            return "frees_nothing", "its deletion would free no byte"
        return "target_reached", reasons.not_needed(self._place(number), fits=self._fits)

    def _place(self, number: int) -> str:
        """Where it stands in its row, in words."""
        ranking, kind = self._outcome.ranking, self._manifests[number].kind
        if not self._graph.own_tags[number]:
            return reasons.UNTAGGED
        if kind == CACHE:
            return reasons.noun(CACHE)
        order = self._source.policy.order
        return reasons.place(ranking.rank(number), ranking.group(number)[1], order)

    def _held(self, number: int, holders: set[int]) -> Kept:
        parents = self._graph.parents.get(number, set()) & holders
        name = self._name(min(parents or holders))
        if parents:
            return "child_of_index", f"needed by the index {name}"
        return "follows_image", f"refers to {name}, which stays"

    def _newest(self, number: int) -> Kept | None:
        policy, ranking = self._source.policy, self._outcome.ranking
        if self._manifests[number].kind in (None, CACHE):
            return None
        app, kind = group = ranking.group(number)
        kept = policy.keep_at_least if group in self._at_minimum else policy.keep_newest
        rank = ranking.rank(number)
        if rank > kept:
            return None
        if self._manifests[number].registry in self._source.out_of_reach:
            return None
        unreadable = self._source.unreadable.get(self._manifests[number].key)
        if unreadable is not None:
            return "unreadable", f"holds no place, because it cannot be pulled: {unreadable}"
        if ranking.misses(number):
            return "not_found", "the registry answers for none of its tags just now"
        if number not in ranking.image_of:
            return "newest", reasons.part_of_newest(kept, app)
        if ranking.images[group] == 1:
            return "only_image", f"the only {reasons.noun(kind)} of app {app}"
        return "newest", reasons.newest(rank, kept, app, kind, policy.order)

    def _why_not(self, missing: int, kept_by: Counter[Why]) -> str:
        # What a person can mend comes first: the list is cut.
        obstacles = sorted(kept_by.most_common(), key=lambda item: item[0] != "age_unknown")
        named = [
            f"{plural(count, 'manifest')} {reasons.KEPT_AS[why]}"
            for why, count in obstacles
            if why in reasons.KEPT_AS
        ]
        demand = self._source.reserved_bytes + self._source.incoming_bytes
        if self._target < 0:
            named.insert(0, f"incoming and reserved bytes alone are {format_bytes(demand)}")
        listed = ", ".join(named[:_OBSTACLES_NAMED])
        if (more := len(named) - _OBSTACLES_NAMED) > 0:
            listed += f" and {plural(more, 'other obstacle')}"
        return f"{format_bytes(missing)} above the target; what stays: {listed}"
