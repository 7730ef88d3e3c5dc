"""contract.md, "Topics": levels, their thresholds, and how they fall."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.levels import LEVELS, Level, level

levels = st.sampled_from(LEVELS)
usages = st.integers(0, 2 * 10**19)
quotas = st.integers(1, 10**19)
THRESHOLDS = {
    "ok": Fraction(0),
    "warning": Fraction(70, 100),
    "critical": Fraction(90, 100),
    "exceeded": Fraction(1),
}


@pytest.mark.parametrize(
    ("percent_of_percent", "rises_to"),
    [
        (0, "ok"),
        (6999, "ok"),
        (7000, "warning"),
        (8999, "warning"),
        (9000, "critical"),
        (9999, "critical"),
        (10000, "exceeded"),
        (25000, "exceeded"),
    ],
)
def test_a_level_is_reached_at_its_threshold(percent_of_percent, rises_to):
    assert level("ok", percent_of_percent, 10_000) == rises_to


@pytest.mark.parametrize(
    ("current", "usage", "expected"),
    [
        ("exceeded", 9601, "exceeded"),
        ("exceeded", 9600, "critical"),
        ("exceeded", 8601, "critical"),
        ("exceeded", 8600, "warning"),
        ("exceeded", 6601, "warning"),
        ("exceeded", 6600, "ok"),
        ("critical", 9601, "critical"),
        ("critical", 8601, "critical"),
        ("critical", 8600, "warning"),
        ("critical", 6600, "ok"),
        ("warning", 8999, "warning"),
        ("warning", 6601, "warning"),
        ("warning", 6600, "ok"),
        ("ok", 6999, "ok"),
        ("warning", 7000, "warning"),  # the cleanup target
    ],
)
def test_a_level_falls_only_four_hundredths_below_its_threshold(current, usage, expected):
    assert level(current, usage, 10_000) == expected


@given(levels, usages, quotas)
def test_it_is_the_highest_reached_or_the_highest_held(current: Level, usage: int, quota: int):
    ratio = Fraction(usage, quota)
    reached = [name for name in LEVELS if ratio >= THRESHOLDS[name]]
    held = [
        name
        for name in LEVELS[: LEVELS.index(current) + 1]
        if ratio > THRESHOLDS[name] - Fraction(4, 100)
    ]
    assert level(current, usage, quota) == max(reached + held, key=LEVELS.index)


@given(levels, usages, quotas)
def test_asking_again_changes_nothing(current: Level, usage: int, quota: int):
    first = level(current, usage, quota)
    assert level(first, usage, quota) == first


@given(levels, usages, usages, quotas)
def test_more_usage_never_lowers_the_level(current: Level, one: int, other: int, quota: int):
    less, more = (level(current, usage, quota) for usage in sorted((one, other)))
    assert LEVELS.index(less) <= LEVELS.index(more)


@given(levels, st.integers(1, 10**15), st.integers(0, 3))
def test_a_swing_of_less_than_four_hundredths_changes_the_level_once_at_most(
    current: Level, hundredth: int, swing: int
):
    quota = 100 * hundredth
    for base in range(60, 110):
        seen = [current]
        for percent in [base, base + swing] * 4:
            seen.append(level(seen[-1], percent * hundredth, quota))
        settled = seen[2:]
        assert len(set(settled)) == 1


@pytest.mark.parametrize(
    ("current", "usage", "quota", "said"),
    [
        ("ok", 1, 0, "quota must be positive"),
        ("ok", 1, -5, "quota must be positive"),
        ("ok", -1, 5, "usage cannot be negative"),
        ("fine", 1, 5, "not a level: 'fine'"),
    ],
)
def test_nonsense_is_refused(current, usage, quota, said):
    with pytest.raises(ValueError, match=said):
        level(current, usage, quota)
