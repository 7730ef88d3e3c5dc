"""A workspace's manifests as a graph of small numbers: who needs whom, and who holds which bytes. PURE.

A digest is 32 bytes and stands in many manifests; numbers make the planner's loops cheap. Manifest
numbers are positions in `PlanInput.manifests`; digest numbers are given in order of appearance.
"""

from collections.abc import Iterable, Mapping, Sequence

from quota.plan import Manifest, PlanInput
from registry.following import Subject, may_follow, subject_of, subject_of_tag, tags_named_by
from registry.names import format_digest


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
        """Tags that stand for themselves, that is, without those that name what it belongs to."""
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
        following: list[tuple[int, list[Subject]]] = []
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
            named = {tag: s for tag in manifest.tags if (s := subject_of_tag(tag)) is not None}
            if named:
                following.append((number, list(named.values())))
                self.own_tags.append(tuple(tag for tag in manifest.tags if tag not in named))
            else:
                self.own_tags.append(manifest.tags)
        self._follow_digests(following)
        self._follow_tags()

    def _follow_digests(self, following: list[tuple[int, list[Subject]]]) -> None:
        places = {self.manifests[number].key[:2] for number, _ in following}
        prefixes = {
            (*manifest.key[:2], *subject_of(manifest.digest)): number
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

    def _follow_tags(self) -> None:
        """`1.4-sbom` of an SBOM belongs to what `1.4` names, where that is there; else it is a name."""
        following = [
            (number, names)
            for number, manifest in enumerate(self.manifests)
            if may_follow(manifest.kind)
            and (names := [(tag, list(tags_named_by(tag))) for tag in self.own_tags[number]])
        ]
        places = {self.manifests[number].key[:2] for number, _ in following}
        tagged = {
            (*manifest.key[:2], tag): number
            for number, manifest in enumerate(self.manifests)
            if manifest.key[:2] in places
            for tag in manifest.tags
        }
        for number, names in following:
            place = self.manifests[number].key[:2]
            own = []
            for tag, named in names:
                found = next(
                    (n for name in named if (n := tagged.get((*place, name))) is not None), number
                )
                if found == number:
                    own.append(tag)
                else:
                    self.subjects.setdefault(number, set()).add(found)
            self.own_tags[number] = tuple(own)

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
