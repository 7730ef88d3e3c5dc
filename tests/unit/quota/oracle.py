"""The rules of cleanup.md once more, in the slowest and plainest way, to check the planner against.

Everything is looked up anew in a set of manifests that remain. Nothing is shared with the planner
but its data.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import combinations

from quota.plan import Manifest, PlanInput
from registry.kinds import CACHE, IMAGE, Kind

Remaining = frozenset[int]
"""Positions in `PlanInput.manifests`."""

Row = tuple[str, Kind | None]
"""(app, kind)"""

CLASSES = range(4)

FOLLOWS = re.compile(r"sha256-([0-9a-f]{64})(\..+)?")
OF_SOMETHING = ("signature", "attestation", "sbom")


class Oracle:
    def __init__(self, source: PlanInput) -> None:
        self.source = source
        self.all = frozenset(range(len(source.manifests)))
        policy = source.policy
        self.target = (
            source.quota_bytes * policy.target_ppm // 10**6
            - source.reserved_bytes
            - source.incoming_bytes
        )

    def __getitem__(self, number: int) -> Manifest:
        return self.source.manifests[number]

    # What holds what

    def neighbours(self, number: int) -> list[int]:
        place = self[number].registry, self[number].repository
        return [n for n in self.all if (self[n].registry, self[n].repository) == place]

    def named_subjects(self, number: int) -> list[bytes]:
        matches = [FOLLOWS.fullmatch(tag) for tag in self[number].tags]
        return [bytes.fromhex(match[1]) for match in matches if match]

    def named_by_tag(self, number: int, tag: str) -> int | None:
        """What a tag such as `1-sbom` of something that is no image belongs to, where it is there."""
        kind = self[number].kind
        if kind is None or kind.name not in (*OF_SOMETHING, "artifact") or "-sbom" not in tag:
            return None
        name = tag.removesuffix("-sbom")
        return next(
            (n for n in self.neighbours(number) if name in self[n].tags and n != number), None
        )

    def own_tags(self, number: int) -> list[str]:
        return [
            tag
            for tag in self[number].tags
            if not FOLLOWS.fullmatch(tag) and self.named_by_tag(number, tag) is None
        ]

    def parents(self, number: int) -> set[int]:
        digest = self[number].digest
        return {n for n in self.neighbours(number) if digest in self[n].children} - {number}

    def subjects(self, number: int) -> set[int]:
        named = [*self.named_subjects(number), self[number].subject]
        found = {n for n in self.neighbours(number) if self[n].digest in named} - {number}
        by_tag = {self.named_by_tag(number, tag) for tag in self[number].tags}
        return found | {n for n in by_tag if n is not None}

    def holders(self, number: int) -> set[int]:
        return self.parents(number) | self.subjects(number)

    def ancestors(self, number: int) -> set[int]:
        found, edge = set(), {number}
        while edge:
            found |= edge
            edge = {h for n in edge for h in self.holders(n)} - found
        return found

    # Bytes

    def held(self, numbers: Iterable[int]) -> set[bytes]:
        numbers = list(numbers)
        return {self[n].digest for n in numbers} | {b for n in numbers for b in self[n].blobs}

    def size(self, digests: Iterable[bytes]) -> int:
        return sum(self.source.sizes[digest] for digest in digests)

    def account(self, remaining: Remaining) -> int:
        """What the ledger counts."""
        return self.size(self.held(remaining))

    def usage(self, remaining: Remaining) -> int:
        """With what the incoming build brings again, which is what the target is about."""
        coming = self.source.incoming_digests & self.held(self.all)
        return self.size(self.held(remaining) | coming)

    # What may never go

    def is_protected(self, number: int) -> bool:
        source, policy, manifest = self.source, self.source.policy, self[number]
        age_ns = max(source.now_ns - max(manifest.named_ns, manifest.latest_ns or 0), 0)
        second = 10**9
        used = any(
            self[n].digest in source.in_use and number in self.ancestors(n) for n in self.all
        )
        pulled = policy.keep_pulled_days is not None and any(
            pulled_at is not None
            and source.now_ns - pulled_at < policy.keep_pulled_days * 86_400 * second
            and number in self.ancestors(n)
            for n in self.all
            for pulled_at in [self[n].last_pulled_at_ns]
        )
        parents = self.parents(number)
        belongs = bool(self.holders(number)) and not self.own_tags(number)
        pushed_again = (
            bool(parents)
            and not self.own_tags(number)
            and not self.subjects(number)
            and all(self[p].newest_push_ns < manifest.newest_push_ns for p in parents)
            and max(source.now_ns - manifest.newest_push_ns, 0) < policy.untagged_grace_s * second
        )
        return (
            used
            or pulled
            or pushed_again
            or any(fnmatchcase(t, g) for t in manifest.tags for g in policy.keep_tags)
            or (age_ns < policy.min_age_s * second and not belongs)
            or not (manifest.age_known and manifest.subject_known and manifest.size_known)
            or any(
                named not in [self[n].digest for n in self.neighbours(number)]
                for named in self.named_subjects(number)
            )
            or any(self[n].is_index and not self[n].size_known for n in self.neighbours(number))
            or manifest.key in source.failed
            or manifest.key in source.spared
            or manifest.registry in source.out_of_reach
            or any(stale.repository == manifest.repository for stale in source.stale_sources)
        )

    # The newest of a kind in an app

    def row(self, number: int) -> Row:
        """Among what it is ranked: its kind; what belongs to something stands among the images."""
        manifest = self[number]
        bound = self.holders(number) or manifest.subject is not None or manifest.kind is None
        return manifest.app, IMAGE if bound else manifest.kind

    def counted(self, row: Row, remaining: Remaining) -> dict[bytes, tuple[int, bytes]]:
        """Digest of an image that counts → what sorts it, newest last."""
        found: dict[bytes, tuple[int, bytes]] = {}
        for n in remaining:
            manifest = self[n]
            if (manifest.app, manifest.kind) == row and self.counts(n):
                pushed = self.sure(n)
                sorts = found.get(manifest.digest, (-2, b""))
                found[manifest.digest] = max(
                    sorts, (pushed, bytes(255 - b for b in manifest.digest))
                )
        return found

    def counts(self, number: int) -> bool:
        manifest = self[number]
        return bool(
            manifest.kind not in (None, CACHE)
            and self.own_tags(number)
            and manifest.subject is None
            and not self.holders(number)
            and manifest.key not in self.source.without_place
        )

    def rank(self, number: int) -> int:
        manifest = self[number]
        counted = self.counted(self.row(number), self.all)
        pushed = manifest.pushed_at_ns if manifest.age_known else -1
        if (
            manifest.digest in counted
            and manifest.kind is not None
            and not self.holders(number)
            and manifest.subject is None
            and manifest.key not in self.source.without_place
        ):
            place = sum(sorts >= counted[manifest.digest] for sorts in counted.values())
            # Where it is in several repositories: the best place that any of them may give it.
            places = [
                1 + sum(sorts[0] > self.latest(n) for sorts in counted.values())
                for n in self.all
                if self[n].digest == manifest.digest
                and self.counts(n)
                and self.row(n) == self.row(number)
                and self[n].age_known
                and self.latest(n) > self.sure(n)
            ]
            return min([place, *places])
        return 1 + sum(sorts[0] > max(pushed, self.latest(number)) for sorts in counted.values())

    def sure(self, number: int) -> int:
        """Since when it is what it is beyond doubt: it takes places from what is older; of no age: never."""
        manifest = self[number]
        if not manifest.age_known:
            return -1
        sure = manifest.surely_ns
        return manifest.pushed_at_ns if sure is None else min(sure, manifest.pushed_at_ns)

    def latest(self, number: int) -> int:
        """The latest moment at which its tag may have come to name it; of no known age: never."""
        manifest = self[number]
        if not manifest.age_known:
            return -1
        return max(manifest.pushed_at_ns, manifest.latest_ns or 0)

    def is_only_untagged(self, number: int) -> bool:
        app, kind = self[number].app, self[number].kind
        if kind == CACHE or (kind is not None and kind.name in OF_SOMETHING):
            return False
        if self.counted((app, kind or IMAGE), self.all):
            return False
        rivals = [
            n
            for n in self.candidates(0)
            if (self[n].app, self[n].kind) == (app, kind)
            and self[n].subject is None
            and self[n].key not in self.source.without_place
        ]
        if not rivals:
            return False
        # A push again of what was there may be no push: by its first one it may be another.
        return number in (rivals[-1], max(rivals, key=lambda n: (self.sure(n), self[n].key)))

    # Candidates

    def candidates(self, place: int) -> list[int]:
        """Those of a class, oldest first: 0 untagged, 1 caches, 2 beyond the newest, 3 beyond the
        minimum. What is of no known kind is in none."""
        policy = self.source.policy

        def belongs(n: int) -> bool:
            if place == 0:
                return not self[n].tags and not self.holders(n)
            if not self.own_tags(n) or self[n].kind is None:
                return False
            if self[n].kind == CACHE or place == 1:
                return self[n].kind == CACHE and place == 1
            if place == 2:
                return self.rank(n) > policy.keep_newest
            return policy.keep_at_least < self.rank(n) <= policy.keep_newest

        return sorted(
            (n for n in self.all if belongs(n)),
            key=lambda n: (self[n].pushed_at_ns if self[n].age_known else -1, self[n].key),
        )

    def unit(self, number: int, remaining: Remaining) -> frozenset[int]:
        """What has to go when it goes: it, and what only it and such things hold, without own tags."""
        unit = {number}
        while True:
            more = {
                n
                for n in remaining - unit
                if self.holders(n) & unit
                and not self.holders(n) & (remaining - unit)
                and not self.own_tags(n)
            }
            if not more:
                return frozenset(unit)
            unit |= more

    def may_go(self, number: int, remaining: Remaining) -> bool:
        """Whether a candidate may be deleted while these remain."""
        if self.holders(number) & remaining:
            return False
        manifest = self[number]
        if not self.own_tags(number):
            left = max(manifest.newest_push_ns, manifest.unreferenced_since_ns or 0)
            if max(self.source.now_ns - left, 0) < self.source.policy.untagged_grace_s * 10**9:
                return False
            if self.is_only_untagged(number):
                return False
        elif (
            "latest" in manifest.tags
            and manifest.kind != CACHE
            and len(self.counted(self.row(number), remaining)) <= 2
        ):
            return False
        return not any(self.is_protected(n) for n in self.unit(number, remaining))

    def most(self) -> Remaining:
        """What remains when every candidate that may go goes, in order."""
        remaining = self.all
        for place in CLASSES:
            turn = self.candidates(place)
            waiting = [n for earlier in range(place + 1) for n in self.candidates(earlier)]
            for candidate in turn:
                if candidate in remaining and self.may_go(candidate, remaining):
                    remaining -= self.unit(candidate, remaining)
                    remaining = self._late(waiting, candidate, turn, remaining)
        return remaining

    def _late(
        self, waiting: list[int], after: int, turn: list[int], remaining: Remaining
    ) -> Remaining:
        """Those whose turn was before their last holder went, oldest first."""
        while True:
            passed = [
                n
                for n in waiting
                if n in remaining
                and self.holders(n)
                and (n not in turn or turn.index(n) < turn.index(after))
                and self.may_go(n, remaining)
            ]
            if not passed:
                return remaining
            oldest = min(passed, key=lambda n: (self[n].pushed_at_ns, self[n].key))
            remaining -= self.unit(oldest, remaining)

    def kept_with(self, number: int) -> frozenset[int]:
        """What stays when it stays: its children and referrers, theirs, and so on."""
        found, edge = frozenset[int](), {number}
        while edge:
            found |= edge
            edge = {n for n in self.all if self.holders(n) & edge} - found
        return found

    # Every way to delete

    def every_way(self) -> list[Remaining]:
        """All sets that may remain by the rules, found by trying all combinations of candidates.

        For workspaces in which order decides nothing: no `latest`, and no protected part with
        several holders.
        """
        able = [n for place in CLASSES for n in self.candidates(place)]
        ways = []
        for count in range(len(able) + 1):
            for chosen in combinations(able, count):
                remaining, left = self.all, set(chosen)
                while ready := [n for n in left if self.may_go(n, remaining)]:
                    remaining -= self.unit(ready[0], remaining)
                    left.remove(ready[0])
                if not left:
                    ways.append(remaining)
        return ways
