"""Stamps that cannot be believed: told ahead of their time, or above what a registry answered. PURE.

A stamp more than the clock skew after its arrival counts as the earliest arrival known for that event;
a smaller lead stays, so that a registry a little ahead loses no order. An answer of the registry that
contradicts is a *ceiling*: stamps above its `Date`, of facts that had arrived by then, are void. What is
not told ahead is taken to have arrived when it happened. The answer is a fact beside the ceiling, and
carries its arrival so that nothing hides it.

All of it is a function of the set of facts, so such facts are kept one by one. They are rare: only of a
manifest or a tag of which something was told ahead, or that a ceiling is about, a row carries more than
its newest stamps (`Odd`).
"""

from typing import Final, TypeVar

import msgspec

from ledger.facts import (
    NEVER,
    Ceiling,
    DigestDeleted,
    Fact,
    ManifestDeleted,
    ManifestPulled,
    ManifestPushed,
    ManifestSeen,
    Stamp,
    TagRemoved,
)

SECOND_NS: Final = 1_000_000_000
AHEAD_NS: Final = 5 * SECOND_NS
"""Nanoseconds: a stamp that is not further ahead of its arrival is an ordinary one."""
SKEW_NS: Final = 300 * SECOND_NS
"""`RQ_CLOCK_SKEW` by default, in nanoseconds."""
_LATEST: Final = 2**63 - 1
_LAST_ID: Final = b"\xff" * 17
"""Behind every event's 16 bytes."""
_DUPLICATES_NS: Final = 3600 * SECOND_NS
"""The same event comes again within this time, or what it says is long overtaken."""

_Stamped = (
    ManifestPushed | ManifestSeen | ManifestDeleted | DigestDeleted | TagRemoved | ManifestPulled
)
AnyFact = TypeVar("AnyFact", bound=Fact)


def just_after(ns: int, identifier: bytes = b"") -> Stamp:
    """A stamp behind every one of this nanosecond, also at the end of 64 bits."""
    return (ns + 1, identifier) if ns < _LATEST else (_LATEST, _LAST_ID)


def told_ahead(fact: AnyFact, arrived_ns: int) -> AnyFact:
    """The fact, which carries its arrival (nanoseconds) where its stamp is ahead of that."""
    if isinstance(fact, _Stamped) and fact.arrived_ns < 0 and fact.stamp[0] > arrived_ns + AHEAD_NS:
        return msgspec.structs.replace(fact, arrived_ns=arrived_ns)
    return fact


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One stamp that was told ahead of its time."""

    slot: str
    """What it would raise: a field of the manifest or the tag."""
    stamp: Stamp
    """As it was told."""
    arrived_ns: int
    """The earliest arrival known of it."""
    digest: bytes | None = None
    """What a tag was set to."""

    def bounded(self, skew_ns: int) -> Stamp:
        """As it counts."""
        if self.stamp[0] <= self.arrived_ns + skew_ns:
            return self.stamp
        return (self.arrived_ns, self.stamp[1])


class Void(msgspec.Struct, frozen=True, array_like=True):
    """Stamps above `above_ns` are void, of what had arrived by `arrived_ns`."""

    above_ns: int
    arrived_ns: int

    def covers(self, stamp: Stamp, arrived_ns: int) -> bool:
        """Whether a stamp is void."""
        return self.above_ns < stamp[0] and arrived_ns <= self.arrived_ns


class Newest(msgspec.Struct, frozen=True, array_like=True):
    """The newest ordinary fact of a slot."""

    stamp: Stamp = NEVER
    digest: bytes | None = None


class Odd(msgspec.Struct, frozen=True, array_like=True):
    """What a row's stamps are worked out from, where maxima are not enough. Never changed in place."""

    ordinary: dict[str, Newest]
    told: tuple[Told, ...] = ()
    voids: tuple[Void, ...] = ()

    def taking(
        self, slot: str, stamp: Stamp, arrived_ns: int, digest: bytes | None, skew_ns: int
    ) -> "Odd":
        """With one fact more; `arrived_ns` is -1 for an ordinary one."""
        again = next((t for t in self.told if (t.slot, t.stamp) == (slot, stamp)), None)
        if arrived_ns < 0:
            before = self.ordinary.get(slot, Newest())
            if again is not None or stamp <= before.stamp:
                return self
            ordinary = self.ordinary | {slot: Newest(stamp, digest)}
            return msgspec.structs.replace(self, ordinary=ordinary)
        if again is not None and again.arrived_ns <= arrived_ns:
            return self
        told = [t for t in self.told if t is not again]
        told.append(Told(slot, stamp, arrived_ns, digest))
        return msgspec.structs.replace(self, told=_that_matter(told, skew_ns))

    def knows(self, slot: str, stamp: Stamp) -> bool:
        """Whether this was told ahead already."""
        return any((told.slot, told.stamp) == (slot, stamp) for told in self.told)

    def digests(self) -> set[bytes]:
        """All that a tag may name."""
        kept = {told.digest for told in self.told} | {n.digest for n in self.ordinary.values()}
        return {digest for digest in kept if digest is not None}

    def under(self, void: Void) -> "Odd":
        """With one ceiling more."""
        if void in self.voids:
            return self
        return msgspec.structs.replace(self, voids=tuple(sorted((*self.voids, void), key=_order)))

    def newest(self, slot: str, skew_ns: int) -> Newest:
        """What counts of a slot."""
        found = self.ordinary.get(slot, Newest())
        if self._void(found.stamp, found.stamp[0]):
            found = Newest()  # what is older is void as well, or below what the registry answered
        for told in self.told:
            stamp = told.bounded(skew_ns)
            if told.slot == slot and stamp > found.stamp and not self._void(stamp, told.arrived_ns):
                found = Newest(stamp, told.digest)
        return found

    def _void(self, stamp: Stamp, arrived_ns: int) -> bool:
        return any(void.covers(stamp, arrived_ns) for void in self.voids)

    def healed(self, now_ns: int, before_ns: int, skew_ns: int) -> "Odd":
        """What an earlier release believed counts as just before `before_ns`.

        Nothing that is bounded by its arrival can be further ahead of `now_ns` than the skew.
        """
        wild = {s: n for s, n in self.ordinary.items() if n.stamp[0] > now_ns + skew_ns}
        told = [Told(slot, n.stamp, before_ns - 1, n.digest) for slot, n in wild.items()]
        ordinary = {slot: n for slot, n in self.ordinary.items() if slot not in wild}
        return msgspec.structs.replace(self, ordinary=ordinary, told=(*self.told, *told))


def _that_matter(told: list[Told], skew_ns: int) -> tuple[Told, ...]:
    """Without what something later has overtaken whatever comes: a tag that moves for years."""
    latest = max(t.arrived_ns for t in told) - _DUPLICATES_NS - skew_ns
    kept = [
        t
        for t in told
        if t.arrived_ns > latest
        or not any(
            other.slot == t.slot
            and other.arrived_ns > t.arrived_ns + _DUPLICATES_NS + skew_ns
            and other.bounded(skew_ns) >= t.bounded(skew_ns)
            for other in told
        )
    ]
    return tuple(sorted(kept, key=lambda t: (t.slot, t.stamp)))


def _order(void: Void) -> tuple[int, int]:
    return (void.above_ns, void.arrived_ns)


def void_of(ceiling: Ceiling) -> Void:
    """What a ceiling says."""
    return Void(ceiling.stamp[0], ceiling.arrived_ns)
