"""What cleanup is planned from, and what a plan says. Frozen data. PURE.

Digests are raw bytes, sizes are bytes, times are integer nanoseconds since the epoch (UTC).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from quota.policy import Policy
from registry.kinds import Kind

ManifestKey = tuple[str, str, bytes]
"""(registry, repository, digest): what a DELETE request names."""

Why = Literal[
    # Kept.
    "nothing_to_do",  # the target is reached before anything is deleted
    "target_reached",  # a candidate that the target can be reached without
    "frees_nothing",  # a candidate whose deletion would free no byte
    "newest",  # among the newest of its kind in its app
    "only_image",  # the only one of its kind in its app
    "latest",  # tagged `latest`, and no more than two of its kind remain in its app
    "child_of_index",  # an index that stays needs it
    "follows_image",  # a referrer (signature, attestation …) of a manifest that stays
    "part_kept",  # something that would have to go with it has to stay
    "other_registry",  # in a registry that can be counted, and not cleaned from here
    "in_use",  # leased, or part of what is leased, or holds it
    "pulled_recently",
    "keep_tag",  # a tag matches `keep_tags`
    "too_young",  # pushed within `min_age`
    "in_grace",  # untagged, but not for long enough
    "pushed_again",  # a child pushed after its index: it may belong to a push under way
    "age_unknown",
    "subject_unknown",  # whether it is a referrer, and of what, is not known
    "kind_unknown",  # whether it is an image, a cache or something else is not known yet
    "subject_missing",  # its tag names a subject that is not in the repository
    "size_pending",  # what it holds is not known yet
    "index_pending",  # an index of the repository is not known yet: this may be its child
    "doubted",  # the registry gives no clear answer about it, or about what holds its app's places
    "unreadable",  # it cannot be pulled: it is counted among no newest
    "not_found",  # the registry answers for none of its tags: it is counted among no newest
    "delete_failed",  # its deletion has failed in this run
    "pulled_meanwhile",  # it, or what it holds, was pulled after the plan was made
    "stale_lease",  # a lease source of its scope has stopped reporting
    "not_configured",  # first seen by reconciliation, and nobody has set quota or policy
    "pull_through_cache",  # the registry is one, which deletes nothing
    "database_older",  # an older backup of the database was put back: leases and rules may be lost
    "over_quota",  # the incoming build alone is larger than the quota: nothing goes for it
    # Deleted.
    "untagged",  # nothing needs it, and its grace is over
    "cache",  # a build cache: it holds no place
    "beyond_newest",  # beyond the newest `keep_newest` of its kind in its app
    "beyond_minimum",  # beyond the newest `keep_at_least` of them: the target asked for it
    "goes_with_index",  # a child of deleted indexes only
    "goes_with_image",  # a referrer of deleted manifests only
]
"""Why a manifest is kept or deleted, for programs. Sentences for people come beside it."""

Kept = tuple[Why, str]
"""Why a manifest stays, and its sentence without `kept: `."""

Forbidden = Literal[
    "stale_lease", "not_configured", "over_quota", "pull_through_cache", "database_older"
]
"""Why nothing of the workspace may be deleted at all."""

Breaker = Literal["max_images_per_run", "max_ratio_per_run"]
"""Limits of the policy that refuse a run that is larger than they allow."""

Note = Literal["pattern_matches_nothing"]
"""What a person should read of the policy; it changes nothing in the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that exists in a repository of the workspace. Children and subject live there too."""

    repository: str
    app: str
    digest: bytes
    size: int
    """Bytes of the document."""
    media_type: str
    blobs: tuple[bytes, ...]
    """Config and layers that count, each digest once."""
    children: tuple[bytes, ...]
    """Child manifests of an index, whether they exist or not."""
    is_index: bool
    subject: bytes | None
    subject_known: bool
    """False: it may or may not be a referrer."""
    tags: tuple[str, ...]
    pushed_at_ns: int
    """Since when it is what its newest tag names; what has no tag: its newest push. Age and order go by it."""
    age_known: bool
    """False: `pushed_at_ns` is not to be believed."""
    last_pulled_at_ns: int | None
    unreferenced_since_ns: int | None
    """When the last tag, parent or subject known to have left it did so."""
    size_known: bool
    """False: blobs and children are not known yet."""
    kind: Kind | None
    """What it is; None while that is not known."""
    registry: str = "default"
    last_push_ns: int | None = None
    """Its newest push, where that is another moment: a mirror pushes unchanged tags again and again."""
    named_at_ns: int | None = None
    """What `pushed_at_ns` was, where order goes by versions (`versions.py`)."""

    latest_ns: int | None = None
    """Where `pushed_at_ns` is only the earliest moment that it can be, the latest."""
    surely_ns: int | None = None
    """Where an earlier moment alone is beyond doubt: it takes places from what is older than that."""
    unanswered: tuple[str, ...] = ()
    """Those of its tags that the registry does not answer."""

    @property
    def key(self) -> ManifestKey:
        """What names it in the workspace."""
        return (self.registry, self.repository, self.digest)

    @property
    def newest_push_ns(self) -> int:
        """What grace is counted from: whoever pushes something now may be about to use it."""
        return self.named_ns if self.last_push_ns is None else self.last_push_ns

    @property
    def named_ns(self) -> int:
        """What its age is counted from, in whatever order it stands."""
        return self.pushed_at_ns if self.named_at_ns is None else self.named_at_ns

    @property
    def perhaps_ns(self) -> int:
        """The latest moment that `pushed_at_ns` can be. Versions leave no doubt."""
        exact = self.latest_ns is None or self.named_at_ns is not None
        return self.pushed_at_ns if exact else max(self.pushed_at_ns, self.latest_ns or 0)

    @property
    def takes_from_ns(self) -> int:
        """What is newer than this loses no place to it. Versions leave no doubt."""
        if self.surely_ns is None or self.named_at_ns is not None:
            return self.pushed_at_ns
        return min(self.surely_ns, self.pushed_at_ns)

    @property
    def youngest_ns(self) -> int:
        """The latest moment that `named_ns` can be."""
        return max(self.named_ns, self.latest_ns or 0)


@dataclass(frozen=True, slots=True)
class StaleSource:
    """A lease source that has stopped reporting: nothing in its scope may be deleted."""

    source: str
    repository: str | None = None
    """None: the whole workspace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """One consistent reading of a workspace."""

    workspace: str
    now_ns: int
    policy: Policy
    quota_bytes: int
    usage_bytes: int
    reserved_bytes: int
    incoming_bytes: int
    manifests: tuple[Manifest, ...]
    sizes: Mapping[bytes, int]
    """Digest → bytes that count, for manifest documents, configs and layers."""
    incoming_digests: frozenset[bytes] = frozenset()
    """Layers of the incoming build that the workspace holds: referenced throughout the plan.

    What is deleted with their last holder leaves the account all the same, and comes again.
    """
    in_use: frozenset[bytes] = frozenset()
    """Leased digests."""
    stale_sources: tuple[StaleSource, ...] = ()
    configured: bool = True
    """False: first seen by reconciliation, and nobody has set its quota or policy."""
    is_cache: bool = False
    database_older: bool = False
    """Whether the log had been read further than the database knows, and no person has looked since."""
    """Whether the registry is a pull-through cache, which deletes nothing."""
    failed: frozenset[ManifestKey] = frozenset()
    """Deletions that failed in this run: others take their place."""
    spared: Mapping[ManifestKey, Kept] = field(default_factory=dict)
    """What stays in this run for what happened meanwhile, or because the registry gives no clear answer
    about it: others take its place."""
    not_found: frozenset[ManifestKey] = frozenset()
    """Tagged manifests for none of whose tags the registry answers: nothing is kept less for them."""
    unreadable: Mapping[ManifestKey, str] = field(default_factory=dict)
    """What cannot be pulled, and why: nothing is kept less for it."""
    out_of_reach: frozenset[str] = frozenset()
    """Registries in which nothing can be deleted from here."""
    deleted_before: int = 0
    """Images that this run has deleted already: its breakers count them, too."""

    @property
    def without_place(self) -> frozenset[ManifestKey]:
        """What is counted among no newest: nobody can pull it, or it is in another registry.

        Who pulls from this one finds nothing there.
        """
        elsewhere = (item.key for item in self.manifests if item.registry in self.out_of_reach)
        return self.not_found.union(self.unreadable, elsewhere if self.out_of_reach else ())


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one manifest."""

    manifest: Manifest
    keep: bool
    why: Why
    sentence: str
    """For people: `kept: …` or `deleted: …`."""
    freed_bytes: int = 0
    """Bytes freed at its turn in the plan; 0 when kept."""


@dataclass(frozen=True, slots=True)
class Unit:
    """An image and everything that goes with it, in the order of deletion."""

    manifest: Manifest
    """The image: tagged, or untagged and needed by nothing."""
    members: tuple[Manifest, ...]
    """First `manifest`; children after their indexes, referrers after their subjects."""
    why: Why
    sentence: str
    freed_bytes: int
    shared_bytes: int
    """Bytes of it that stay, because something that is kept contains them, too."""
    returning_bytes: int = 0
    """Of the freed bytes those that the incoming build brings again: no room is won by them."""


@dataclass(frozen=True, slots=True)
class Block:
    """Why deletion is refused (in `Plan.blocks`) or narrowed (in `Plan.warnings`), or what to know."""

    code: Forbidden | Breaker | Note
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes and what stays, complete before anything is deleted."""

    workspace: str
    made_at_ns: int
    usage_before_bytes: int
    target_usage_bytes: int
    """Usage at which usage + reserved + incoming is at the target; may be negative."""
    units: tuple[Unit, ...]
    """Deletions in order. When a breaker refuses the run they say what it would have been."""
    decisions: tuple[Decision, ...]
    """One per manifest, in the order of the input."""
    blocks: tuple[Block, ...]
    """Not empty: nothing may be deleted."""
    warnings: tuple[Block, ...] = ()
    """What narrowed the plan without forbidding it, such as a stale lease of one repository."""
    notes: tuple[Block, ...] = ()
    """What a person should know who reads the plan: nothing in it follows from them."""
    why_not: str | None = None
    """Why the target is not reached, in words; None when it is."""
    kept_by: Mapping[Why, int] = field(default_factory=dict)
    """How many manifests each reason keeps."""
    places: tuple[Manifest, ...] = ()
    """What holds the protected places of apps that something is deleted of: ask for them first."""
    unresolved: tuple[Manifest, ...] = ()
    """Manifests of which a fact is missing that kept candidates: fetch them and plan again."""

    @property
    def freed_bytes(self) -> int:
        """Bytes that the ledger frees when all units are deleted: the promise."""
        return sum(unit.freed_bytes for unit in self.units)

    @property
    def returning_bytes(self) -> int:
        """Of the freed bytes those that the incoming build brings again."""
        return sum(unit.returning_bytes for unit in self.units)

    @property
    def usage_after_bytes(self) -> int:
        """Usage when all units are deleted."""
        return self.usage_before_bytes - self.freed_bytes

    @property
    def target_reached(self) -> bool:
        """Whether usage + reserved + incoming, and what comes again, is at or below the target then."""
        usage_bytes = self.usage_after_bytes + self.returning_bytes
        return not self.blocks and usage_bytes <= self.target_usage_bytes

    @property
    def steps(self) -> tuple[Manifest, ...]:
        """Manifests to delete, in order. Empty when the run is refused."""
        if self.blocks:
            return ()
        return tuple(member for unit in self.units for member in unit.members)

    @property
    def as_listed(self) -> list[Decision]:
        """The decisions as people read them: deletions in their order, then what stays, newest first."""
        turns = [member.key for unit in self.units for member in unit.members]
        turn = {key: number for number, key in enumerate(turns)}
        return sorted(
            self.decisions,
            key=lambda decision: (
                turn.get(decision.manifest.key, len(turns)),
                -decision.manifest.pushed_at_ns,
                decision.manifest.key,
            ),
        )
