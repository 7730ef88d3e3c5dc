"""Which images count as the newest of their kind in their app. PURE.

What counts are an app's tagged top-level images (cleanup.md): several tags on one digest, and one
digest in several repositories of the app, are one image; untagged manifests, referrers, children
of indexes and tags that only name a subject do not count. Nor does what the registry does not answer
for, or what cannot be pulled: an app must not lose its last images to some that only the ledger has.

Each kind is judged for itself: what runs has its places, charts have theirs. Build caches have none, and
what is of no known kind yet takes none from others.

Where nobody told when a tag came to name an image, and a look found it, two moments are known: it was
no earlier than the one and no later than the other. It keeps a place that it may have, and takes
none from what may be newer: an image goes only when it is beyond the newest whatever the truth is.
"""

from bisect import bisect_left

from quota.graph import Graph
from quota.plan import ManifestKey
from registry.kinds import CACHE, IMAGE, Kind

_UNKNOWN_AGE = -1
"""Sorts images of unknown age behind all others, so that they push nothing out of the newest."""

Group = tuple[str, Kind]
"""(app, kind): what shares its places."""


class Ranking:
    """Ranks by when a tag last came to name it: 1 is the newest of its kind in its app."""

    def __init__(self, graph: Graph, without_place: frozenset[ManifestKey]) -> None:
        self._graph = graph
        self._without_place = without_place
        pushes: dict[Group, dict[bytes, int]] = {}
        perhaps: dict[tuple[Group, bytes], int] = {}
        self.image_of: dict[int, tuple[Group, bytes]] = {}
        """Manifests that count → (group, digest), the image that they are."""
        for number, manifest in enumerate(graph.manifests):
            if not self._counts(number):
                continue
            group = self.group(number)
            images = pushes.setdefault(group, {})
            pushed = manifest.takes_from_ns if manifest.age_known else _UNKNOWN_AGE
            images[manifest.digest] = max(pushed, images.get(manifest.digest, _UNKNOWN_AGE))
            image = self.image_of[number] = (group, manifest.digest)
            if manifest.age_known and manifest.perhaps_ns > manifest.takes_from_ns:
                perhaps[image] = max(manifest.perhaps_ns, perhaps.get(image, _UNKNOWN_AGE))
        self._rank: dict[tuple[Group, bytes], int] = {}
        self._negated_pushes: dict[Group, list[int]] = {}
        self.images: dict[Group, int] = {group: len(images) for group, images in pushes.items()}
        """Group → how many images count. Groups without any are absent."""
        for group, images in pushes.items():
            ordered = sorted(images, key=lambda digest: (-images[digest], digest))
            for place, digest in enumerate(ordered):
                self._rank[group, digest] = place + 1
            self._negated_pushes[group] = [-images[digest] for digest in ordered]
        for image, latest in perhaps.items():
            self._rank[image] = min(self._rank[image], self._behind_newer(image[0], latest))

    def _counts(self, number: int) -> bool:
        graph = self._graph
        return (
            bool(graph.own_tags[number])
            and graph.manifests[number].kind not in (None, CACHE)
            and number not in graph.parents
            and number not in graph.subjects
            and graph.manifests[number].subject is None
            and not self.misses(number)
        )

    def group(self, number: int) -> Group:
        """Where it stands in a row: with its kind; what belongs to something else with the images."""
        manifest = self._graph.manifests[number]
        bound = self._graph.held(number) or manifest.subject is not None
        return manifest.app, IMAGE if bound or manifest.kind is None else manifest.kind

    def misses(self, number: int) -> bool:
        """Whether nobody can pull it (here): it holds no place."""
        return self._graph.manifests[number].key in self._without_place

    def rank(self, number: int) -> int:
        """The place among the newest of its kind in its app, the best that it may have.

        Of a tagged manifest that does not count (a child, a referrer, what was not found): one behind
        the images that are newer.
        """
        image = self.image_of.get(number)
        if image is not None:
            return self._rank[image]
        manifest = self._graph.manifests[number]
        latest = manifest.perhaps_ns if manifest.age_known else _UNKNOWN_AGE
        return self._behind_newer(self.group(number), latest)

    def _behind_newer(self, group: Group, moment_ns: int) -> int:
        return bisect_left(self._negated_pushes.get(group, ()), -moment_ns) + 1
