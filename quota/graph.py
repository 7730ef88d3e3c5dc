"""A workspace's manifests as a graph of small numbers: who needs whom, and who holds which bytes. PURE.

A digest is 32 bytes and stands in many manifests; numbers make the planner's loops cheap. Manifest
numbers are positions in `PlanInput.manifests`; digest numbers are given in order of appearance.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from quota.plan import Manifest, PlanInput
from registry.names import format_digest

# `sha256-<hex>.sig|.att|.sbom` of cosign (and what others put behind the dot), and the tag of a
# referrers index in registries without the referrers API: `<algorithm>-<first 64 hex digits>`.
_FOLLOWING_TAG: Final = re.compile(r"(sha256|sha384|sha512)-([0-9a-f]{64})(?:\.[\w.-]+)?", re.ASCII)
_DIGEST_BYTES: Final = {"sha256": 32, "sha384": 48, "sha512": 64}
_SUBJECT_PREFIX: Final = 32
"""Bytes of a subject's digest that such a tag has room for."""

_Subject = tuple[int, bytes]
"""(length of the digest, its first 32 bytes)"""


def subject_of_tag(tag: str) -> _Subject | None:
    """What a tag such as `sha256-<hex>.sig` says it belongs to; None for a tag that people chose."""
    if tag[:3] != "sha" or (match := _FOLLOWING_TAG.fullmatch(tag)) is None:
        return None
    return _DIGEST_BYTES[match[1]], bytes.fromhex(match[2])


class Graph:
    """Edges and holdings. Built once per plan, never changed.

    Something is *held* by the indexes it is a child of and by the manifests it refers to (its
    subject, by field or by tag): it stays while one of them stays.
    """

    def __init__(self, source: PlanInput) -> None:
        """Raises ValueError when a digest has no size, or a manifest is given twice."""
        self.manifests: Sequence[Manifest] = source.manifests
        self.parents: dict[int, set[int]] = {}
        """Manifest → existing indexes of its repository that have it as a child."""
        self.subjects: dict[int, set[int]] = {}
        """Referrer → existing manifests of its repository that it refers to."""
        self.misses_subject: set[int] = set()
        """Manifests with a tag that names a subject which is not in the repository."""
        self.own_tags: list[tuple[str, ...]] = []
        """Tags that people chose, that is, without those that name a subject."""
        self._connect()
        self.needs: dict[int, tuple[int, ...]] = self._turned(self.parents, self.subjects)
        """Manifest → what stays while it stays: its children, then what refers to it."""
        self.contents: list[tuple[int, ...]] = []
        """Numbers of the digests that a manifest makes the workspace hold, its own first."""
        self.sizes: list[int] = []
        """Digest number → bytes."""
        self.references: list[int] = []
        """Digest number → existing manifests that contain it, and the incoming build."""
        self.incoming: frozenset[int] = frozenset()
        """Digests that the incoming build brings again."""
        self._number_digests(source.sizes, source.incoming_digests)

    def held(self, number: int) -> bool:
        """Whether an index or a subject holds it."""
        return number in self.parents or number in self.subjects

    def holders(self, number: int) -> set[int]:
        """Indexes and subjects that hold it."""
        return self.parents.get(number, set()) | self.subjects.get(number, set())

    def upwards(self, numbers: Iterable[int]) -> set[int]:
        """These and everything that holds them, directly or not."""
        found = set(numbers)
        waiting = list(found)
        while waiting:
            for holder in self.holders(waiting.pop()):
                if holder not in found:
                    found.add(holder)
                    waiting.append(holder)
        return found

    def _connect(self) -> None:
        numbers = {manifest.key: number for number, manifest in enumerate(self.manifests)}
        if len(numbers) != len(self.manifests):
            raise ValueError("a manifest is given twice")
        following: list[tuple[int, list[_Subject]]] = []
        for number, manifest in enumerate(self.manifests):
            registry, repository, _ = manifest.key
            for digest in manifest.children:
                child = numbers.get((registry, repository, digest))
                if child is not None and child != number:
                    self.parents.setdefault(child, set()).add(number)
            if manifest.subject is not None:
                subject = numbers.get((registry, repository, manifest.subject))
                if subject is not None and subject != number:
                    self.subjects.setdefault(number, set()).add(subject)
            named = [subject_of_tag(tag) for tag in manifest.tags]
            if any(named):
                following.append((number, [subject for subject in named if subject is not None]))
                own = tuple(
                    tag for tag, subject in zip(manifest.tags, named, strict=True) if not subject
                )
                self.own_tags.append(own)
            else:
                self.own_tags.append(manifest.tags)
        self._follow_tags(following)

    def _follow_tags(self, following: list[tuple[int, list[_Subject]]]) -> None:
        places = {self.manifests[number].key[:2] for number, _ in following}
        prefixes = {
            (*manifest.key[:2], len(manifest.digest), manifest.digest[:_SUBJECT_PREFIX]): number
            for number, manifest in enumerate(self.manifests)
            if manifest.key[:2] in places
        }
        for number, named in following:
            place = self.manifests[number].key[:2]
            for subject in named:
                found = prefixes.get((*place, *subject))
                if found is None:
                    self.misses_subject.add(number)
                elif found != number:
                    self.subjects.setdefault(number, set()).add(found)

    @staticmethod
    def _turned(*holders: dict[int, set[int]]) -> dict[int, tuple[int, ...]]:
        needs: dict[int, dict[int, None]] = {}
        for kind in holders:
            for number, found in kind.items():
                for holder in found:
                    needs.setdefault(holder, {})[number] = None
        return {holder: tuple(held) for holder, held in needs.items()}

    def _number_digests(self, sizes: Mapping[bytes, int], incoming: frozenset[bytes]) -> None:
        numbers: dict[bytes, int] = {}
        give = numbers.setdefault
        for manifest in self.manifests:
            content = [give(manifest.digest, len(numbers))]
            content += [give(digest, len(numbers)) for digest in manifest.blobs]
            self.contents.append(tuple(content))
        for digest in numbers:
            size = sizes.get(digest)
            if size is None:
                raise ValueError(f"no size for {format_digest(digest)}")
            self.sizes.append(size)
        self.references = [0] * len(numbers)
        for digests in self.contents:
            for digest_number in digests:
                self.references[digest_number] += 1
        self.incoming = frozenset(numbers[digest] for digest in incoming & numbers.keys())
        for digest_number in self.incoming:
            self.references[digest_number] += 1
