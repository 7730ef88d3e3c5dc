"""What may not be deleted, whatever the target asks for. PURE.

These are the protections that do not change while a plan grows. Those judged on what remains (the
newest of an app, its only image, `latest`) belong to the planner's loop.
"""

from collections.abc import Callable, Iterable

from quota import reasons
from quota.graph import Graph
from quota.plan import Block, Forbidden, Kept, Manifest, PlanInput, StaleSource
from quota.policy import DAY_S, SECOND_NS
from quota.words import format_bytes, format_seconds
from registry.globs import glob_matcher

CONFIRM_RESTORED = "`registry-quota reconcile --confirm-restored`"


def over_all(source: PlanInput) -> tuple[Forbidden, str] | None:
    """What forbids every deletion in the workspace, and its sentence."""
    if source.is_cache:
        return (
            "pull_through_cache",
            "the registry is a pull-through cache: it deletes for nobody, and forgets by itself (`proxy.ttl`)",
        )
    if source.database_older:
        return (
            "database_older",
            f"an older backup of the database was put back, see {CONFIRM_RESTORED}",
        )
    if not source.configured:
        return (
            "not_configured",
            "first seen by reconciliation: nothing is deleted until somebody sets quota or policy",
        )
    for stale in source.stale_sources:
        if stale.repository is None:
            return "stale_lease", _stale_sentence(stale)
    if source.incoming_bytes > source.quota_bytes:
        incoming, quota = format_bytes(source.incoming_bytes), format_bytes(source.quota_bytes)
        return (
            "over_quota",
            f"the incoming build alone ({incoming}) is larger than the quota ({quota})",
        )
    return None


def stale_in_repositories(source: PlanInput) -> tuple[Block, ...]:
    """Lease sources of single repositories that keep those out of the plan."""
    return tuple(
        Block("stale_lease", _stale_sentence(stale))
        for stale in source.stale_sources
        if stale.repository is not None
    )


def _stale_sentence(stale: StaleSource) -> str:
    scope = "" if stale.repository is None else f" in {stale.repository}"
    return f"what is in use{scope} is not known: lease source {stale.source} stopped reporting"


class Protections:
    """Why a manifest may not be deleted, asked one at a time."""

    def __init__(self, source: PlanInput, graph: Graph) -> None:
        self._source = source
        self._graph = graph
        self._policy = source.policy
        self._keeps: Callable[[str], object] = glob_matcher(source.policy.keep_tags)
        self._stale = {
            stale.repository: _stale_sentence(stale)
            for stale in source.stale_sources
            if stale.repository is not None
        }
        # An index whose children are not known may need anything in its repository.
        self._unread_indexes: dict[tuple[str, str], list[int]] = {}
        numbers = range(len(source.manifests))
        for number, manifest in enumerate(source.manifests):
            if manifest.is_index and not manifest.size_known:
                self._unread_indexes.setdefault(manifest.key[:2], []).append(number)
        self._leased = {n for n in numbers if source.manifests[n].digest in source.in_use}
        self._used = graph.upwards(self._leased)
        self._pulled = {n for n in numbers if self._pulled_recently(source.manifests[n])}
        self._fetched = graph.upwards(self._pulled)

    def of(self, number: int) -> Kept | None:
        """The reason that keeps it; None when nothing does. Facts that are missing come last."""
        source, policy = self._source, self._policy
        manifest = source.manifests[number]
        if manifest.repository in self._stale:
            return "stale_lease", self._stale[manifest.repository]
        if manifest.registry in source.out_of_reach:
            where = f"it is in registry {manifest.registry}"
            return "other_registry", f"{where}, which cannot be cleaned from here"
        if manifest.key in source.failed:
            return "delete_failed", "its deletion has failed in this run"
        if manifest.key in source.spared:
            return source.spared[manifest.key]
        if number in self._used:
            return "in_use", "in use" if number in self._leased else "holds what is in use"
        if number in self._fetched:
            return "pulled_recently", self._pulled_sentence(number)
        for tag in manifest.tags:
            if self._keeps(tag):
                return "keep_tag", f"its tag {tag} matches keep_tags"
        if not manifest.age_known:
            return "age_unknown", "how old it is is not known: push it once more, or date it"
        age_s = self._seconds_since(manifest.youngest_ns)
        if age_s < policy.min_age_s and not self._belongs(number):
            done = "tagged" if manifest.tags else "pushed"
            young, least = format_seconds(age_s), format_seconds(policy.min_age_s)
            return "too_young", f"{done} {young} ago, min_age is {least}"
        push_s = self._seconds_since(manifest.newest_push_ns)
        if push_s < policy.untagged_grace_s and self._pushed_again(number):
            ago = f"{format_seconds(push_s)} ago"
            return "pushed_again", f"pushed again after its index, {ago}: a push may be under way"
        return self._unknown(number, manifest)

    def _unknown(self, number: int, manifest: Manifest) -> Kept | None:
        if not manifest.size_known:
            return "size_pending", "what it holds is not known yet"
        if not manifest.subject_known:
            return "subject_unknown", "whether it refers to another manifest is not known"
        if number in self._graph.misses_subject:
            return "subject_missing", "it refers to a manifest that is not in its repository"
        unread = self._unread_indexes.get(manifest.key[:2])
        if unread:
            name = reasons.name_of(self._source.manifests[unread[0]])
            return "index_pending", f"the index {name} is not read yet and may need it"
        return None

    def unread_indexes(self, places: Iterable[tuple[str, str]]) -> set[int]:
        """Indexes in some (registry, repository) whose children are not known yet."""
        return {number for place in places for number in self._unread_indexes[place]}

    def tagged(self, number: int) -> Kept | None:
        """As `of`, for a manifest with tags of its own: where it stands in a row has to be known."""
        kept = self.of(number)
        if kept is None and self._source.manifests[number].kind is None:
            return "kind_unknown", "whether it is an image or something else is not known yet"
        return kept

    def untagged(self, number: int) -> Kept | None:
        """As `of`, for an untagged manifest that nothing holds: it has its grace first."""
        if self._source.manifests[number].age_known:
            return self._grace(number) or self.of(number)
        return self.of(number)

    def _grace(self, number: int) -> Kept | None:
        manifest = self._source.manifests[number]
        left = max(manifest.newest_push_ns, manifest.unreferenced_since_ns or 0)
        since_s = self._seconds_since(left)
        grace_s = self._policy.untagged_grace_s
        if since_s >= grace_s:
            return None
        untagged, grace = format_seconds(since_s), format_seconds(grace_s)
        return "in_grace", f"untagged for {untagged}, the grace is {grace}"

    def _seconds_since(self, moment_ns: int) -> int:
        """Whole seconds; 0 for a moment that a registry whose clock is ahead puts in the future."""
        return max(self._source.now_ns - moment_ns, 0) // SECOND_NS

    def _pulled_recently(self, manifest: Manifest) -> bool:
        days, pulled = self._policy.keep_pulled_days, manifest.last_pulled_at_ns
        if days is None or pulled is None:
            return False
        return self._source.now_ns - pulled < days * DAY_S * SECOND_NS

    def _pulled_sentence(self, number: int) -> str:
        pulled = self._source.manifests[number].last_pulled_at_ns
        if number not in self._pulled or pulled is None:
            return "holds what was pulled recently"
        return f"pulled {format_seconds(self._seconds_since(pulled))} ago"

    def _pushed_again(self, number: int) -> bool:
        """Whether a child was pushed after every index that has it."""
        parents = self._graph.parents.get(number)
        if parents is None or number in self._graph.subjects or self._graph.own_tags[number]:
            return False
        manifests = self._source.manifests
        return manifests[number].newest_push_ns > max(manifests[n].newest_push_ns for n in parents)

    def _belongs(self, number: int) -> bool:
        """Whether it is part of what holds it, and as old as that: a mirror pushes it again by digest."""
        return self._graph.held(number) and not self._graph.own_tags[number]
