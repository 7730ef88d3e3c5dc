"""Stamps that cannot be believed: bounded by their arrival, and void above what the registry answered."""

import random
from collections.abc import Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.ahead import AHEAD_NS, SECOND_NS, SKEW_NS, Void, just_after, told_ahead
from ledger.facts import (
    NEVER,
    Ceiling,
    DigestDeleted,
    Fact,
    ManifestDeleted,
    ManifestPushed,
    ManifestSeen,
    Stamp,
    TagRemoved,
)
from ledger.fold import Manifest, State, Tag, fold
from tests.support.histories import IMAGES, OCI_IMAGE

HERE = ("default", "acme/api")
START = 1_800_000_000 * SECOND_NS
FAR = 400 * 86_400 * SECOND_NS
"""400 days."""
ONE, OTHER = IMAGES[0], IMAGES[1]


def stamp(seconds: float, name: int) -> Stamp:
    return (START + int(seconds * SECOND_NS), bytes([name]) * 16)


def at(seconds: float) -> int:
    return START + int(seconds * SECOND_NS)


def pushed(when: Stamp, image=ONE, tag: str | None = "1") -> ManifestPushed:
    return ManifestPushed(*HERE, image[0], when, OCI_IMAGE, image[2], tag, image[3])


def seen(when: Stamp, image=ONE, tag: str | None = None, asked_ns: int = -1) -> ManifestSeen:
    return ManifestSeen(
        *HERE, image[0], when, OCI_IMAGE, image[2], tag, image[3], arrived_ns=asked_ns
    )


def folded(*facts: Fact) -> State:
    state = State({}, {})
    for fact in facts:
        fold(state, 0, fact)
    return state


def named(state: State) -> bytes | None:
    tag = state.tags.get((0, "1"))
    if tag is None or tag.digest is None:
        return None
    return tag.digest if tag.live(state.manifests.get((0, tag.digest))) else None


def test_a_clock_that_jumped_for_one_push_takes_nothing_hostage():
    """400 days ahead, then right: the tag's move and the delete win at once."""
    ahead = told_ahead(pushed((at(1) + FAR, b"a" * 16)), at(1))
    moved, deleted = pushed(stamp(2, 2), OTHER), DigestDeleted(*HERE, ONE[0], stamp(3, 3))
    state = folded(ahead, moved, deleted)
    assert named(state) == OTHER[0]
    assert not state.manifests[0, ONE[0]].present
    assert state.manifests[0, ONE[0]].push == (at(1), b"a" * 16)
    assert (0, "1") in state.raced
    assert (0, ONE[0]) in state.doubted


def test_a_forged_set_delete_and_removal_of_the_year_2200_lose_against_a_look():
    far = (7_258_118_400 * SECOND_NS, b"f" * 16)
    real = pushed(stamp(1, 1))
    for forged in (
        pushed(far, OTHER),
        DigestDeleted(*HERE, ONE[0], far),
        TagRemoved(*HERE, "1", far),
    ):
        before = folded(real, told_ahead(forged, at(5)))
        assert named(before) != ONE[0]
        after = folded(real, told_ahead(forged, at(5)), seen(stamp(7, 2), tag="1"))
        assert named(after) == ONE[0]
        assert (
            before.raced
            | before.doubted
            | {key for key, item in before.manifests.items() if item.asked_for}
        )


def test_a_small_lead_keeps_its_order():
    first = told_ahead(pushed(stamp(200, 1)), at(0))
    second = told_ahead(pushed(stamp(201, 2), OTHER), at(2))
    for facts in ((first, second), (second, first)):
        assert named(folded(*facts)) == OTHER[0]


def test_nodes_minutes_apart_are_settled_by_the_registrys_answer():
    """The node that is ahead has hidden the move; the answer voids it, and what follows wins at once."""
    ahead = told_ahead(pushed(stamp(240, 1)), at(0))
    moved = pushed(stamp(10, 2), OTHER)
    hidden = folded(ahead, moved)
    assert named(hidden) == ONE[0]
    assert (0, "1") in hidden.raced
    answer: list[Fact] = [
        Ceiling(*HERE, stamp(20, 3), at(20), tag="1"),
        seen(stamp(20, 4), OTHER, "1", at(20)),
    ]
    assert named(folded(ahead, moved, *answer)) == OTHER[0]
    again = pushed(stamp(30, 5))
    assert named(folded(ahead, moved, *answer, again)) == ONE[0]


def test_a_clock_set_back_is_settled_by_the_registrys_answer():
    before = pushed(stamp(86_400, 1))
    moved = pushed(stamp(10, 2), OTHER)
    answer: list[Fact] = [
        Ceiling(*HERE, stamp(20, 3), at(86_500), tag="1"),
        seen(stamp(20, 4), OTHER, "1", at(86_500)),
    ]
    assert named(folded(before, moved)) == ONE[0]
    for facts in ([before, moved, *answer], [*answer, moved, before]):
        assert named(folded(*facts)) == OTHER[0]


# -- the law -----------------------------------------------------------------------------------------

SLOTS = ("push", "seen", "sure", "heard", "set", "untag")


class Given(msgspec.Struct, frozen=True):
    """A fact of which only its stamp matters, and when it first came."""

    slot: str
    stamp: Stamp
    arrived_ns: int
    digest: bytes

    def fact(self, late_ns: int = 0) -> Fact:
        fact = self._fact()
        return told_ahead(fact, self.arrived_ns + late_ns)

    def _fact(self) -> Fact:
        image = ONE if self.digest == ONE[0] else OTHER
        if self.slot == "push":
            return pushed(self.stamp, ONE, None)
        if self.slot == "seen":
            return seen(self.stamp, ONE)
        if self.slot == "sure":
            return ManifestDeleted(*HERE, ONE[0], self.stamp)
        if self.slot == "heard":
            return DigestDeleted(*HERE, ONE[0], self.stamp)
        if self.slot == "set":
            return pushed(self.stamp, image)
        return TagRemoved(*HERE, "1", self.stamp)


@st.composite
def told(draw: st.DrawFn, number: int) -> Given:
    moment = draw(st.integers(0, 900))
    lead = draw(st.sampled_from((-2000, -1, 0, 0, 0, 4, 20, 100, 299, 301, 5000, 10**9)))
    slot = draw(st.sampled_from(("seen", "sure", "heard", "set", "set", "untag")))
    digest = draw(st.sampled_from((ONE[0], OTHER[0])))
    return Given(slot, stamp(moment + lead, number), at(moment), digest)


def _effective(given: Iterable[Given], voids: list[Void], slot: str) -> Given | None:
    """Naively: each fact by itself."""
    best: tuple[Stamp, Given] | None = None
    ordinary = [g for g in given if g.slot == slot and g.stamp[0] <= g.arrived_ns + AHEAD_NS]
    # What an ordinary one hides is at or below what the answer says (see `ahead.py`).
    chosen = [max(ordinary, key=lambda g: g.stamp)] if ordinary else []
    chosen += [g for g in given if g.slot == slot and g.stamp[0] > g.arrived_ns + AHEAD_NS]
    for g in chosen:
        ahead = g.stamp[0] > g.arrived_ns + AHEAD_NS
        counts = g.stamp
        if g.stamp[0] > g.arrived_ns + SKEW_NS:
            counts = (g.arrived_ns, g.stamp[1])
        arrived = g.arrived_ns if ahead else g.stamp[0]
        if any(v.above_ns < counts[0] and arrived <= v.arrived_ns for v in voids):
            continue
        if best is None or counts > best[0]:
            best = (counts, g)
    return None if best is None else Given(slot, best[0], 0, best[1].digest)


@settings(max_examples=300)
@given(st.data())
def test_what_counts_is_a_function_of_the_set_of_facts(data):
    """Any order, duplicates that come later, and ceilings anywhere among them."""
    facts = [data.draw(told(number)) for number in range(data.draw(st.integers(1, 8)))]
    ceilings = [
        Void(at(data.draw(st.integers(-100, 900))), at(data.draw(st.integers(0, 900))))
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    events: list[Fact] = []
    for fact in facts:
        events.append(fact.fact())
        lead_s = (fact.stamp[0] - fact.arrived_ns) // SECOND_NS
        # As long as it still is ahead of its arrival: see "told ahead" in `ahead.py`.
        latest = min(lead_s - 6, 1000) if lead_s > 5 else 0
        late = data.draw(st.lists(st.integers(0, latest), max_size=2)) if latest > 0 else []
        events += [fact.fact(seconds * SECOND_NS) for seconds in late]
    for number, void in enumerate(ceilings):
        identifier = bytes([200 + number]) * 16
        where = (*HERE, (void.above_ns, identifier), void.arrived_ns)
        events += [Ceiling(*where, digest=ONE[0]), Ceiling(*where, tag="1")]
    order = data.draw(st.randoms(use_true_random=False))
    shuffled = [*events, *events]
    order.shuffle(shuffled)
    state = folded(*shuffled)
    manifest = state.manifests.get((0, ONE[0]), Manifest())
    tag = state.tags.get((0, "1"), Tag())
    for slot in ("sure", "heard"):
        expected = _effective(facts, ceilings, slot)
        assert getattr(manifest, slot) == (NEVER if expected is None else expected.stamp)
    for slot in ("set", "untag"):
        expected = _effective(facts, ceilings, slot)
        assert getattr(tag, slot) == (NEVER if expected is None else expected.stamp)
        if slot == "set":
            assert tag.digest == (None if expected is None else expected.digest)
    straight = folded(*events)
    assert (straight.manifests, straight.tags) == (state.manifests, state.tags) or _same(
        straight, state
    )


def _same(one: State, other: State) -> bool:
    """But for when a tag left, a hint."""
    return {k: msgspec.structs.replace(m, left_ns=-1) for k, m in one.manifests.items()} == {
        k: msgspec.structs.replace(m, left_ns=-1) for k, m in other.manifests.items()
    } and one.tags == other.tags


def test_a_tag_that_moves_for_years_on_a_registry_that_is_ahead_stays_small():
    state = State({}, {})
    for number in range(3000):
        image = (ONE, OTHER)[number % 2]
        when = (at(number * 600 + 10), random.Random(number).randbytes(16))
        fold(state, 0, told_ahead(pushed(when, image), at(number * 600)))
    odd = state.tags[0, "1"].odd
    assert odd is not None
    assert len(odd.told) < 20
    assert named(state) == OTHER[0]


def test_nothing_is_behind_the_end_of_time():
    last = 2**63 - 1
    assert just_after(last) > (last, b"\xff" * 16)
    assert just_after(last)[0] == last
    assert just_after(5, b"a") == (6, b"a")
