"""Sets of one tag that stand close together are noticed, whatever order they come in."""

from itertools import permutations

import pytest

from ledger.facts import Content, ManifestPushed
from ledger.fold import RACE_NS, State, fold

NOON = 1_800_000_000_000_000_000


def pushed(digest: bytes, moment: int, tag: str | None = "1") -> ManifestPushed:
    return ManifestPushed("default", "acme/api", digest, (moment, b"id"), "type", 9, tag, Content())


def raced(*facts: ManifestPushed, parts: int = 1) -> set[tuple[int, str]]:
    """Tags noticed when the facts come in one batch or in several."""
    state, noticed = State({}, {}), set()
    for start in range(0, len(facts), len(facts) // parts):
        state = State(state.manifests, state.tags)
        for fact in facts[start : start + len(facts) // parts]:
            fold(state, 1, fact)
        noticed |= state.raced
    return noticed


@pytest.mark.parametrize("parts", [1, 2])
def test_two_digests_within_seconds_are_a_race_in_any_order(parts):
    facts = [pushed(b"a", NOON), pushed(b"b", NOON + RACE_NS - 1)]
    for order in permutations(facts):
        assert raced(*order, parts=parts) == {(1, "1")}


@pytest.mark.parametrize(
    "facts",
    [
        [pushed(b"a", NOON), pushed(b"b", NOON + RACE_NS)],
        [pushed(b"a", NOON), pushed(b"a", NOON + 1)],
        [pushed(b"a", NOON), pushed(b"a", NOON)],
        [pushed(b"a", NOON, "1"), pushed(b"b", NOON, "2")],
        [pushed(b"a", NOON, None), pushed(b"b", NOON, None)],
        [pushed(b"a", 1)],
    ],
)
def test_anything_else_is_none(facts):
    for order in permutations(facts):
        assert raced(*order) == set()
