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


MASS_LEAST = 20
MASS_SHARE = 5
"""So many manifests, and more than one in so many of all that the ledger has: a person is asked."""
SAMPLE = 20
"""Manifests by which a registry is known again before a pass."""


def is_mass(absent: int, present: int) -> bool:
    """Whether so many absences may mean another registry, or an emptied one, and not what they say."""
    return absent >= MASS_LEAST and absent * MASS_SHARE > present


def looks_like_another(absent: int, asked: int, present: int) -> bool:
    """The same by a sample: of `asked` manifests so many are not there."""
    return present >= MASS_LEAST and absent * MASS_SHARE > asked


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
    date: datetime,
    known_ns: int,
    missing_since: datetime | None,
    *,
    confirm_now: bool,
    may_forget: bool = True,
) -> Verdict:
    """Judge a 404 of the registry's time `date`.

    `known_ns` (nanoseconds) is the newest sign of what was asked for: a push, a set, a look.
    `confirm_now`: a person is sure and does not wait for the second pass. `may_forget`: not before a
    person was asked, where too much is not there.
    """
    if to_ns(date) <= known_ns:
        return Verdict.DOUBT
    if confirm_now and may_forget:
        return Verdict.FORGET
    if missing_since is None or to_ns(missing_since) <= known_ns:
        return Verdict.SUSPECT
    return Verdict.FORGET if may_forget and date - missing_since >= AT_LEAST else Verdict.WAIT


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
