"""What keeps an image of a list from being deleted, by name: `RULE:VALUE`. PURE.

The rules are the planner's that are known of one image, without a plan: `index:` and `subject:` name
what it belongs to, `lease:` the source that has it in use, and the others are those of the policy
with their values. What a plan says beside them (an app's last image, what a target can do without)
stands in the plan.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ledger.fold import ManifestKey
from ledger.images import Parent
from ledger.leases import Lease
from ledger.reading import ManifestView
from quota.policy import DAY_S, SECOND_NS, Policy
from registry.following import subject_of_tag
from registry.globs import glob_matcher
from registry.names import format_digest

_SHA256_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is known beside the images themselves."""

    policy: Policy
    now_ns: int
    leases: tuple[Lease, ...]
    newest: AbstractSet[ManifestKey]
    """Images among the newest `keep_newest` of their kind and app."""
    subjects: AbstractSet[ManifestKey]
    """Of what images say to belong to, those that exist."""
    followed: Mapping[ManifestKey, Sequence[bytes]]
    """What images belong to by their tags' convention: `1.4` of an SBOM `1.4-sbom`."""


def subjects_of(view: ManifestView, followed: Iterable[bytes]) -> list[bytes]:
    """What an image says to belong to, by field or by tag (where a tag has room for the digest).

    `followed`: what its tags name by convention.
    """
    found = [] if view.content is None or view.content.subject is None else [view.content.subject]
    for tag in view.tags:
        named = subject_of_tag(tag)
        if named is not None and named[0] == _SHA256_BYTES and named[1] != view.digest:
            found.append(named[1])
    return list(dict.fromkeys([*found, *followed]))


def protected_by(
    view: ManifestView,
    views: Mapping[ManifestKey, ManifestView],
    above: list[Parent],
    pulled_ns: int,
    rules: Rules,
) -> list[str]:
    """Names of what keeps it. `views` has its children; `above` are its indexes."""
    policy, place = rules.policy, view.repository_id
    found = [f"index:{format_digest(parent.digest)}" for parent in above]
    found += [
        f"subject:{format_digest(subject)}"
        for subject in subjects_of(view, rules.followed.get((place, view.digest), ()))
        if (place, subject) in rules.subjects
    ]
    names = set(_names(view, views))
    found += [
        f"lease:{lease.source}" for lease in rules.leases if not names.isdisjoint(lease.digests)
    ]
    found += [
        f"keep_tags:{pattern}"
        for pattern in policy.keep_tags
        if any(map(glob_matcher((pattern,)), view.tags))
    ]
    if (place, view.digest) in rules.newest:
        found.append(f"keep_newest:{policy.keep_newest}")
    days = policy.keep_pulled_days
    if days is not None and pulled_ns >= 0 and rules.now_ns - pulled_ns < days * DAY_S * SECOND_NS:
        found.append(f"keep_pulled_days:{days}")
    age_s = max(rules.now_ns - view.age.ns, 0) // SECOND_NS
    belongs = above and not view.tags
    if view.age.ns >= 0 and age_s < policy.min_age_s and not belongs:
        found.append(f"min_age:{policy.min_age_s}")
    return found


def _names(view: ManifestView, views: Mapping[ManifestKey, ManifestView]) -> Iterator[bytes]:
    """Digests under which it may be in use: its own, its config, layers and children, and theirs."""
    waiting, seen = [view], {view.digest}
    while waiting:
        current = waiting.pop()
        yield current.digest
        if current.content is None:
            continue
        yield from (digest for digest, _size in current.content.blobs)
        for digest in current.content.children:
            yield digest
            child = views.get((view.repository_id, digest))
            if child is not None and digest not in seen:
                seen.add(digest)
                waiting.append(child)
