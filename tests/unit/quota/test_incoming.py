"""How large a build will be: layers against what is held, and the estimate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.incoming import incoming_from_layers, percentile_90

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


@pytest.mark.parametrize(
    ("layers", "held", "incoming"),
    [
        ([], set(), 0),
        ([(A, 5), (B, 7)], set(), 12),
        ([(A, 5), (B, 7)], {A}, 7),
        ([(A, 5), (B, 7)], {A, B, C}, 0),
        ([(A, 5), (A, 5)], set(), 5),
        ([(A, 5), (A, 9), (A, 1)], set(), 9),
    ],
)
def test_only_what_the_workspace_does_not_hold_costs_and_only_once(layers, held, incoming):
    assert incoming_from_layers(layers, held) == incoming


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="-1 bytes"):
        incoming_from_layers([(A, -1)], set())


@pytest.mark.parametrize(
    ("samples", "estimate"),
    [
        ([], None),
        ([7], 7),
        ([1, 2], 2),
        (list(range(1, 11)), 9),
        (list(range(1, 101)), 90),
        ([100, 1, 1, 1, 1, 1, 1, 1, 1, 1], 1),
    ],
)
def test_the_estimate_is_the_90th_percentile(samples, estimate):
    assert percentile_90(samples) == estimate


@given(st.lists(st.integers(0, 10**12), min_size=1))
def test_nine_in_ten_do_not_exceed_it_and_no_smaller_sample_has_that(samples):
    estimate = percentile_90(samples)
    assert estimate is not None
    covered = {value: sum(sample <= value for sample in samples) for value in samples}
    assert 10 * covered[estimate] >= 9 * len(samples)
    assert all(10 * covered[value] < 9 * len(samples) for value in samples if value < estimate)
