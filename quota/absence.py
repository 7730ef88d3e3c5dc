"""When the ledger may forget what the registry does not show any more. PURE.

Absence from a list proves nothing, and one 404 may be a registry's bad moment: only a HEAD that was
answered 404 in two passes at least an hour apart forgets. Times are the registry's own (its `Date`).
"""

from datetime import datetime, timedelta
from enum import Enum

from ledger.reconcile import KnownRepository
from registry.timestamps import to_ns

AT_LEAST = timedelta(hours=1)
"""Between the two looks that find nothing."""


class Verdict(Enum):
    """What a 404 means for the ledger."""

    DOUBT = "doubt"
    """Something was heard of it since: no absence, and no suspicion."""
    SUSPECT = "suspect"
    """The first look that does not find it."""
    WAIT = "wait"
    """Suspected already, not long enough."""
    FORGET = "forget"


def verdict(
    date: datetime, known_ns: int, missing_since: datetime | None, *, confirm_now: bool
) -> Verdict:
    """Judge a 404 of the registry's time `date`.

    `known_ns` (nanoseconds) is the newest sign of what was asked for: a push, a set, a look.
    `confirm_now`: a person is sure and does not wait for the second pass.
    """
    if to_ns(date) <= known_ns:
        return Verdict.DOUBT
    if confirm_now:
        return Verdict.FORGET
    if missing_since is None or to_ns(missing_since) <= known_ns:
        return Verdict.SUSPECT
    return Verdict.FORGET if date - missing_since >= AT_LEAST else Verdict.WAIT


def tags_to_ask(known: KnownRepository, listed: set[str]) -> list[str]:
    """Every tag that the registry lists or the ledger has: a list may leave one out."""
    return sorted(listed | known.tags.keys())


def not_named(known: KnownRepository, named: set[bytes]) -> list[bytes]:
    """Manifests of the ledger that no tag of the registry names: they are asked for by digest.

    Also those that are gone for the ledger by a delete ahead of its time.
    """
    ahead = {digest for digest in known.ahead if isinstance(digest, bytes)}
    return sorted((known.manifests.keys() | ahead) - named)


def missing_children(known: KnownRepository, named: set[bytes]) -> set[bytes]:
    """What indexes that are there name, and the ledger does not have."""
    return {
        child
        for digest in named
        if (manifest := known.manifests.get(digest)) is not None
        for child in manifest.children
        if child not in known.manifests
    }
