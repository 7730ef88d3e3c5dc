"""What stands in the way is one text for as long as the same does."""

from hypothesis import given
from hypothesis import strategies as st

from quota.reasons import _PASSING, KEPT_AS, obstacle_of

WHYS = st.lists(st.sampled_from(sorted(KEPT_AS)))


@given(WHYS, st.randoms())
def test_neither_order_nor_number_changes_it(whys, random):
    again = whys + whys[: len(whys) // 2]
    random.shuffle(again)
    assert obstacle_of(again) == obstacle_of(whys)


@given(WHYS, WHYS)
def test_what_passes_by_itself_changes_nothing_beside_what_does_not(whys, more):
    lasting = [why for why in whys if why not in _PASSING]
    passing = [why for why in more if why in _PASSING]
    if lasting:
        assert obstacle_of(lasting + passing) == obstacle_of(lasting)


@given(st.frozensets(st.sampled_from(sorted(set(KEPT_AS) - _PASSING)), min_size=1), WHYS)
def test_another_lasting_obstacle_is_another_text(lasting, more):
    if not set(more) - _PASSING <= lasting:
        assert obstacle_of([*lasting, *more]) != obstacle_of(lasting)
