"""Which images go so that the next build fits, and why. PURE, complete before anything is deleted.

The rules are cleanup.md's, "Plan". Where it leaves room:

- A manifest is *held* by the indexes that have it as a child and by its subject (named by field, or
  by a tag such as `sha256-<hex>.sig`). It goes only after all of them, and with the last of them.
- A child or referrer with a tag of its own goes with nothing. It is judged by its own age, as if it
  stood among the images of its app, once nothing holds it any more.
- When one of the manifests that would have to go has to stay, the image stays as a whole. Of
  several indexes that hold such a child the last one stays.
- In an app without tagged images the newest untagged one is its only image; so with each other kind that
  stands for itself.
- Build caches go after untagged garbage and before any image. What is of no known kind is tried with
  them, so that it is read before an image goes that may have to make room for a cache.
- A tag that names a subject which is not in the repository keeps its manifest: signatures may be
  kept apart from what they sign. An untagged referrer without its subject is untagged garbage.
- A child that was pushed again after its index, within the grace, may belong to a push under way.
- Taking back goes from the last resort to the first, newest first in each; where the target is out
  of reach it takes back what frees nothing.

Work grows with the manifests and the digests in them, times a logarithm for sorting.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from heapq import heappop, heappush
from typing import Final

from quota import reasons
from quota.decision import target_bytes
from quota.explain import FEW, Outcome, planned, untouched
from quota.graph import Graph
from quota.patterns import pattern_notes
from quota.plan import Block, Kept, Plan, PlanInput
from quota.policy import PPM
from quota.protections import Protections, over_all
from quota.ranking import Group, Ranking
from quota.versions import by_version
from quota.words import plural
from registry.kinds import ATTACHED, CACHE, IMAGE, Kind

_PATIENCE: Final = 20
"""Manifests that may be looked at in vain, per manifest, when deletions are taken back."""


def make_plan(source: PlanInput) -> Plan:
    """The plan for one consistent reading of a workspace.

    It deletes nothing when the target is reached already, or when something forbids every deletion
    (`Plan.blocks`). When the target cannot be reached it deletes what the rules allow and says why
    that is not enough.

    Raises:
        ValueError: a digest has no size, a manifest is given twice, or figures are impossible.
    """
    with _collector_at_rest():
        return replace(_plan(source), notes=pattern_notes(source))


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No garbage collection: it would walk through a million objects again and again, all of them in
    use, and hold up every other thread meanwhile. Of several plans at once the first to rest ends it.
    """
    worked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if worked:
            gc.enable()


def _plan(source: PlanInput) -> Plan:
    if source.quota_bytes <= 0:
        raise ValueError(f"a quota must be positive, not {source.quota_bytes}")
    target = (
        target_bytes(source.quota_bytes, source.policy)
        - source.reserved_bytes
        - source.incoming_bytes
    )
    if source.usage_bytes <= target:
        return untouched(source, target, "nothing_to_do", "nothing has to go")
    if source.policy.order == "semver":
        source = replace(source, manifests=by_version(source.manifests))
    forbidden = over_all(source)
    if forbidden is not None:
        return replace(untouched(source, target, *forbidden), blocks=(Block(*forbidden),))
    graph = Graph(source)
    plan = _towards(source, graph, target)
    return _as_far_as_allowed(source, graph, plan) if plan.blocks else plan


def _towards(source: PlanInput, graph: Graph, target: int, *, fits: bool = False) -> Plan:
    selection = _Selection(source, graph, target)
    selection.add()
    selection.reprieve()
    outcome = selection.outcome()
    blocks = _breakers(source, graph, len(outcome.units))
    return planned(source, target, graph, outcome, blocks, fits=fits)


def _as_far_as_allowed(source: PlanInput, graph: Graph, refused: Plan) -> Plan:
    """What makes the build fit, where the breakers refuse the way to the target and allow that.

    A limit of what one run may delete is no reason to delete less than it allows while a build is
    denied for it. Above the quota alone: what fits already needs no run.
    """
    room = source.quota_bytes - source.reserved_bytes - source.incoming_bytes
    if not refused.target_usage_bytes < room < source.usage_bytes:
        return refused
    smaller = _towards(source, graph, room, fits=True)
    if smaller.blocks or not smaller.target_reached:
        return refused
    sentence = "; ".join(block.sentence for block in refused.blocks)
    return replace(
        smaller,
        target_usage_bytes=refused.target_usage_bytes,
        warnings=(*smaller.warnings, *refused.blocks),
        why_not=f"{sentence}: only as much goes as the quota needs",
    )


def _breakers(source: PlanInput, graph: Graph, deletions: int) -> tuple[Block, ...]:
    """What refuses a run that deletes so many images (more).

    Images are what people take for one: whatever has tags of its own, or is held by nothing. What
    goes along with an image is not counted beside it, neither here nor there.
    """
    policy = source.policy
    images = source.deleted_before + sum(
        1
        for number, manifest in enumerate(source.manifests)
        if graph.own_tags[number] or not (manifest.tags or graph.held(number))
    )
    if not deletions:
        return ()
    deletions += source.deleted_before
    blocks = []
    if deletions > policy.max_images_per_run:
        sentence = (
            f"{plural(deletions, 'image')} would be deleted,"
            f" max_images_per_run allows {policy.max_images_per_run}"
        )
        blocks.append(Block("max_images_per_run", sentence))
    if deletions * PPM > policy.max_ratio_per_run_ppm * images:
        sentence = (
            f"{deletions} of {plural(images, 'image')} would be deleted,"
            f" max_ratio_per_run ({policy.max_ratio_per_run_ppm / PPM:g}) allows"
            f" {policy.max_ratio_per_run_ppm * images // PPM}"
        )
        blocks.append(Block("max_ratio_per_run", sentence))
    return tuple(blocks)


class _Selection:
    """Deletions, added one by one in simulation, then taken back where they are not needed."""

    def __init__(self, source: PlanInput, graph: Graph, target: int) -> None:
        self._policy = source.policy
        self._manifests = source.manifests
        self._graph = graph
        self._target = target
        self._usage = source.usage_bytes
        self._references = list(graph.references)
        self._ranking = Ranking(graph, source.without_place)
        self._protections = Protections(source, graph)
        self._remaining = dict(self._ranking.images)
        self._copies: dict[tuple[Group, bytes], int] = {}
        for image in self._ranking.image_of.values():
            self._copies[image] = self._copies.get(image, 0) + 1
        self._holders_left = {
            number: len(graph.holders(number)) for number in graph.parents | graph.subjects
        }
        self._deleted = [False] * len(source.manifests)
        self._kept: dict[int, Kept] = {}
        self._units: list[list[int]] = []
        # Only thousands of indexes that share an index of thousands of children can use this up.
        self._patience = _PATIENCE * (len(source.manifests) + 1)
        self._late: set[int] = set()
        self._unresolved: set[int] = set()
        self._unread_places: set[tuple[str, str]] = set()
        self._class_of: dict[int, int] = {}
        self._candidates = self._list_candidates()

    def _list_candidates(self) -> list[list[int]]:
        """Four classes, each oldest push first."""
        classes: list[list[int]] = [[], [], [], []]
        untagged, caches, beyond_newest, beyond_minimum = classes
        for number, manifest in enumerate(self._manifests):
            if self._graph.own_tags[number]:
                rank = self._ranking.rank(number)
                if manifest.kind in (None, CACHE):
                    caches.append(number)
                elif rank > self._policy.keep_newest:
                    beyond_newest.append(number)
                elif rank > self._policy.keep_at_least:
                    beyond_minimum.append(number)
            elif not manifest.tags and not self._graph.held(number):
                untagged.append(number)
        self._keep_only_images(untagged)
        for place, found in enumerate(classes):
            found.sort(key=self._age)
            self._class_of.update(dict.fromkeys(found, place))
        return classes

    def _keep_only_images(self, untagged: list[int]) -> None:
        """Of a kind without tagged images in its app the newest untagged one stays."""
        newest: dict[tuple[str, Kind | None], int] = {}
        surest: dict[tuple[str, Kind | None], int] = {}
        """The same by what nobody can have told wrongly: a push of the digest again may be no push."""
        for number in untagged:
            manifest = self._manifests[number]
            kind = manifest.kind
            alone = kind is None or (kind != CACHE and kind.name not in ATTACHED)
            if (
                alone
                and manifest.subject is None
                and (manifest.app, kind or IMAGE) not in self._remaining
                and not self._ranking.misses(number)
            ):
                rival = newest.setdefault((manifest.app, kind), number)
                if self._age(rival) < self._age(number):
                    newest[manifest.app, kind] = number
                rival = surest.setdefault((manifest.app, kind), number)
                if self._sure(rival) < self._sure(number):
                    surest[manifest.app, kind] = number
        for (app, kind), number in (*newest.items(), *surest.items()):
            noun = reasons.noun(kind or IMAGE)
            self._kept[number] = (
                "only_image",
                f"the newest {noun} of app {app}, which has no tags",
            )

    def _sure(self, number: int) -> tuple[int, tuple[str, str, bytes]]:
        manifest = self._manifests[number]
        return manifest.takes_from_ns if manifest.age_known else -1, manifest.key

    def _age(self, number: int) -> tuple[int, tuple[str, str, bytes]]:
        manifest = self._manifests[number]
        return manifest.pushed_at_ns if manifest.age_known else -1, manifest.key

    def add(self) -> None:
        """Delete candidates in order until the target is reached or none is left."""
        for candidates in self._candidates:
            for candidate in candidates:
                # Beside it come those whose turn was before their last holder went.
                due = [(self._age(candidate), candidate)]
                while due:
                    if self._usage <= self._target:
                        return
                    _, number = heappop(due)
                    if self._holders_left.get(number):
                        self._late.add(number)
                        continue
                    for freed in self._try(number):
                        if freed in self._late:
                            heappush(due, (self._age(freed), freed))

    def _try(self, number: int) -> list[int]:
        """Delete a candidate with all that must go with it, unless something has to stay.

        Returns manifests with tags of their own that nothing holds any more.
        """
        kept = self._kept.get(number) or self._refusal(number)
        if kept is not None:
            self._kept[number] = kept
            self._note_unresolved(number, kept)
            return []
        unit, freed = self._release(number)
        obstacles = [(m, kept) for m in unit[1:] if (kept := self._protections.of(m)) is not None]
        if obstacles:
            for member, kept in obstacles:
                self._note_unresolved(member, kept)
            member, kept = obstacles[0]
            name = reasons.name_of(self._manifests[member])
            self._kept[number] = ("part_kept", f"{name} would go with it: {kept[1]}")
            self._hold_again(unit)
            return []
        for member in unit:
            self._delete(member)
        self._units.append(unit)
        return freed

    def _note_unresolved(self, number: int, kept: Kept) -> None:
        if kept[0] in ("size_pending", "subject_unknown", "kind_unknown"):
            self._unresolved.add(number)
        elif kept[0] == "index_pending":
            self._unread_places.add(self._manifests[number].key[:2])

    def _refusal(self, number: int) -> Kept | None:
        if not self._graph.own_tags[number]:
            return self._protections.untagged(number)
        manifest = self._manifests[number]
        group = self._ranking.group(number)
        if (
            "latest" in manifest.tags
            and manifest.kind != CACHE
            and self._remaining.get(group, 0) <= FEW
        ):
            return "latest", reasons.latest(FEW, *group)
        return self._protections.tagged(number)

    def _release(self, number: int) -> tuple[list[int], list[int]]:
        """What goes with it, holders first, and what has tags of its own and is held no more."""
        unit: list[int] = [number]
        freed: list[int] = []
        for current in unit:
            for held in self._graph.needs.get(current, ()):
                self._holders_left[held] -= 1
                if self._holders_left[held] == 0:
                    (freed if self._graph.own_tags[held] else unit).append(held)
        return unit, freed

    def _hold_again(self, unit: list[int]) -> None:
        for current in unit:
            for held in self._graph.needs.get(current, ()):
                self._holders_left[held] += 1

    def _delete(self, number: int) -> None:
        self._deleted[number] = True
        self._drop(number)
        image = self._ranking.image_of.get(number)
        if image is not None:
            self._copies[image] -= 1
            if self._copies[image] == 0:
                self._remaining[image[0]] -= 1

    def reprieve(self) -> None:
        """Take back, last resort and newest first, each deletion that the target does not need.

        Where the target is out of reach, each one without which as many bytes are freed. Usage only
        grows here, so what could not be taken back once never can: one pass is enough.
        """
        limit = max(self._target, self._usage)
        needed: set[int] = set()
        for unit in reversed(self._units):
            if self._patience < 0:
                return
            if self._deleted[unit[0]] and not self._restore(unit[0], limit, needed):
                needed.add(unit[0])

    def _restore(self, number: int, limit: int, needed: set[int]) -> bool:
        """Keep a manifest and all that stays with it, if usage stays within the limit."""
        restored: list[int] = []
        waiting = [number]
        self._deleted[number] = False
        while waiting:
            current = waiting.pop()
            restored.append(current)
            self._undelete(current)
            if self._usage > limit or current in needed:
                for taken in restored + waiting:
                    self._deleted[taken] = True
                for taken in restored:
                    self._drop(taken)
                self._patience -= len(restored) + len(waiting)
                return False
            for held in self._graph.needs.get(current, ()):
                if self._deleted[held]:
                    self._deleted[held] = False
                    waiting.append(held)
        return True

    def _undelete(self, number: int) -> None:
        for digest in self._graph.contents[number]:
            if self._references[digest] == 0:
                self._usage += self._graph.sizes[digest]
            self._references[digest] += 1

    def _drop(self, number: int) -> None:
        for digest in self._graph.contents[number]:
            self._references[digest] -= 1
            if self._references[digest] == 0:
                self._usage -= self._graph.sizes[digest]

    def outcome(self) -> Outcome:
        """What was selected, for the explanation."""
        units = [[n for n in unit if self._deleted[n]] for unit in self._units]
        return Outcome(
            units=[unit for unit in units if unit],
            kept=self._kept,
            ranking=self._ranking,
            protections=self._protections,
            candidates=self._class_of,
            references=self._references,
            unresolved=self._unresolved | self._protections.unread_indexes(self._unread_places),
        )
