"""What the registry gave no clear answer about during a run: it stays, with a sentence that names it.

One thing that answers oddly takes out what depends on it and nothing else: a tag its image, a
repository's list the repository, a place that could not be asked for the app.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ledger.reading import ManifestView
from quota.plan import Kept, ManifestKey
from quota.recheck import Differences
from quota.snapshot import Snapshot
from runtime.settings import DEFAULT_REGISTRY


@dataclass(slots=True)
class Doubts:
    """What was doubted so far; it only grows. Each with a sentence that says why, and what mends it."""

    images: dict[tuple[str, bytes], str] = field(default_factory=dict)
    """(repository, digest)"""
    untagged: dict[str, str] = field(default_factory=dict)
    """Repositories with a tag, or an index, of which nobody knows what it names: that may have no tag."""
    repositories: dict[str, str] = field(default_factory=dict)
    apps: dict[str, str] = field(default_factory=dict)

    def learn(self, repository: str, found: Differences) -> bool:
        """Take in what asking for a repository's tags left open; whether that is more than before."""
        before = self._size
        self.images |= {(repository, digest): why for digest, why in found.doubted.items()}
        if found.unnamed is not None:
            self.untagged[repository] = found.unnamed
        if found.unlisted is not None:
            self.repositories[repository] = found.unlisted
        return self._size > before

    @property
    def _size(self) -> int:
        known = (self.images, self.untagged, self.repositories, self.apps)
        return sum(len(doubted) for doubted in known)

    def of(self, snapshot: Snapshot) -> dict[ManifestKey, Kept]:
        """Every existing manifest that is doubted, for the planner."""
        if not self._size:
            return {}
        return {
            (view.registry, view.repository, view.digest): ("doubted", why)
            for view in snapshot.manifests
            if view.present and (why := self._why(view)) is not None
        }

    def _why(self, view: ManifestView) -> str | None:
        if view.registry != DEFAULT_REGISTRY:
            return None
        return (
            self.images.get((view.repository, view.digest))
            or self.repositories.get(view.repository)
            or self.apps.get(view.app)
            or (None if view.tags else self.untagged.get(view.repository))
        )

    def warnings(self, snapshot: Snapshot) -> Iterator[str]:
        """Codes for programs, with what is doubted by name."""
        tags = {(view.repository, view.digest): view.tags for view in snapshot.manifests}
        for repository, digest in self.images:
            for tag in tags.get((repository, digest), ())[:1]:
                yield f"doubted:{repository}:{tag}"
        for repository in sorted(self.untagged.keys() | self.repositories.keys()):
            yield f"doubted:{repository}"
        for app in self.apps:
            yield f"doubted:app {app}"
