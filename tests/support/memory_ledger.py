"""The ledger's pure core (fold, counting, levels) with dictionaries where Postgres would be."""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from ledger.counting import Change, Holding, contribution, count, learn_size
from ledger.facts import BlobStored, Fact, names_only
from ledger.fold import Manifest, State, fold
from ledger.words import Word, word_of
from quota.levels import level
from tests.support.histories import REPOSITORIES, pattern_workspace


class Crash(Exception):  # noqa: N818 - not an error: a process that ends
    """The process ends inside a transaction."""


class MemoryLedger:
    """Takes batches as a `Recorder` does; a batch that crashes leaves no trace."""

    def __init__(self, quota_bytes: int) -> None:
        self.quota_bytes = quota_bytes
        self.state = State({}, {})
        self.placed = {repository: pattern_workspace(repository) for repository in REPOSITORIES}
        self.holdings: dict[str, dict[bytes, Holding]] = {}
        self.usage: Counter[str] = Counter()
        self.words: dict[bytes, Word] = {}
        self.stored: dict[bytes, int] = {}
        self.levels: dict[str, str] = {}
        self.emitted: list[tuple[str, str, str]] = []
        """(workspace, previous level, level)"""

    def record(self, facts: Sequence[Fact], *, crash: bool = False) -> None:
        kept = copy.deepcopy(self.__dict__) if crash else None
        before = {key: msgspec.structs.replace(m) for key, m in self.state.manifests.items()}
        for fact in facts:
            if isinstance(fact, BlobStored):
                word = word_of(fact)
                self.words[fact.digest] = max(word, self.words.get(fact.digest, word))
                self.stored[fact.digest] = self.words[fact.digest][2]
                if not fact.repository:
                    continue
            fold(self.state, REPOSITORIES.index(fact.repository), fact)
        changes: dict[str, Change] = {}
        for key, manifest in self.state.manifests.items():
            old = before.get(key, Manifest())
            change = changes.setdefault(self.placed[REPOSITORIES[key[0]]], Change())
            if (old.present, old.content, old.size) != (
                manifest.present,
                manifest.content,
                manifest.size,
            ):
                if old.present:
                    change.remove(key[1], contribution(key[1], old))
                if manifest.present:
                    change.add(key[1], contribution(key[1], manifest))
        for workspace, held in self.holdings.items():
            for digest, holding in held.items():
                if digest in self.stored:
                    self.usage[workspace] += learn_size(holding, self.stored[digest])
        self._count(changes)
        if kept is not None:
            self.__dict__.update(kept)

    def map(self, repository: str, workspace: str) -> None:
        gone, come = Change(), Change()
        source, number = self.placed[repository], REPOSITORIES.index(repository)
        self.placed[repository] = workspace
        for (place, digest), manifest in self.state.manifests.items():
            if place == number and manifest.present:
                gone.remove(digest, contribution(digest, manifest))
                come.add(digest, contribution(digest, manifest))
        if source != workspace:
            self._count({source: gone, workspace: come})

    def restart(self) -> None:
        """Nothing is kept outside the state."""

    def _count(self, changes: dict[str, Change]) -> None:
        for workspace, change in changes.items():
            holdings = self.holdings.setdefault(workspace, {})
            counted = count(holdings, change, self.stored)
            self.usage[workspace] += counted.usage_delta
            for digest in counted.recount:
                self._recount(workspace, digest, holdings[digest])
        for workspace in self.holdings:
            old = self.levels.get(workspace, "ok")
            new = level(old, self.usage[workspace], self.quota_bytes)  # type: ignore[arg-type]
            if new != old:
                self.emitted.append((workspace, old, new))
                self.levels[workspace] = new

    def _recount(self, workspace: str, digest: bytes, holding: Holding) -> None:
        """As `ledger.account` does with statements."""
        before = holding.counted
        present = self._present(workspace)
        documents = [_document(item) for named, item in present if named == digest]
        sizes = {
            size
            for _named, item in present
            for member, size in (item.content.blobs if item.content else ())
            if member == digest and not names_only(member, size)
        }
        if digest in self.stored or documents:
            document = max(documents, default=(False, 0))[1]
            holding.size, holding.stored = self.stored.get(digest, document), True
            holding.mixed = False
        else:
            holding.size, holding.stored, holding.mixed = max(sizes), False, len(sizes) > 1
        self.usage[workspace] += holding.counted - before

    def _present(self, workspace: str) -> list[tuple[bytes, Manifest]]:
        return [
            (digest, manifest)
            for (place, digest), manifest in self.state.manifests.items()
            if manifest.present and self.placed[REPOSITORIES[place]] == workspace
        ]

    # -- what the law is about ---------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Counters beside what an independent count says."""
        recount: dict[str, int] = {}
        references: dict[tuple[str, bytes], tuple[int, int]] = {}
        for workspace in set(self.placed.values()):
            claims: dict[bytes, int] = {}
            documents: dict[bytes, tuple[bool, int]] = {}
            for named_itself, manifest in self._present(workspace):
                document = _document(manifest)
                documents[named_itself] = max(document, documents.get(named_itself, document))
                members = dict(manifest.content.blobs) if manifest.content else {}
                for digest, size in members.items():
                    claims[digest] = max(size, claims.get(digest, 0))
                for digest in members.keys() | {named_itself}:
                    key = (workspace, digest)
                    named = digest != named_itself and digest not in self.stored
                    named = named and names_only(digest, members[digest])
                    refs, names = references.get(key, (0, 0))
                    references[key] = (refs + 1, names + named)
            recount[workspace] = sum(
                self.stored.get(digest, size)
                for digest, size in (
                    claims | {digest: size for digest, (_read, size) in documents.items()}
                ).items()
            )
        counted = {
            (workspace, digest): (holding.refs, holding.names)
            for workspace, held in self.holdings.items()
            for digest, holding in held.items()
            if holding.refs
        }
        return {
            "usage": {name: size for name, size in self.usage.items() if size},
            "recount": {name: size for name, size in recount.items() if size},
            "references_agree": counted == references,
            "emitted": list(self.emitted),
            "levels": dict(self.levels),
        }

    def manifests(self) -> set[tuple[str, bytes]]:
        return {
            (REPOSITORIES[place], digest)
            for (place, digest), manifest in self.state.manifests.items()
            if manifest.present
        }

    def tags(self) -> dict[tuple[str, str], bytes]:
        return {
            (REPOSITORIES[place], name): tag.digest
            for (place, name), tag in self.state.tags.items()
            if tag.digest is not None and tag.live(self.state.manifests.get((place, tag.digest)))
        }

    def rows(self) -> Any:
        """Everything that converges (when a tag left is a hint for the grace period only)."""
        manifests = {
            key: msgspec.structs.replace(item, left_ns=-1)
            for key, item in self.state.manifests.items()
        }
        holdings = {
            (workspace, digest): (holding.refs, holding.names, holding.holders and holding.size)
            for workspace, held in self.holdings.items()
            for digest, holding in held.items()
            if holding.refs
        }
        return manifests, self.state.tags, holdings, self.words


def _document(manifest: Manifest) -> tuple[bool, int]:
    """Whether a manifest's document was read, and its bytes."""
    content = manifest.content
    return content is not None and content.subject_known, manifest.size
