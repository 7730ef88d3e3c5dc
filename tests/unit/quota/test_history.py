"""Samples become points: what a reader at a moment would have seen."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ledger.history import Sample
from quota.history import MOST_POINTS, points, usual_step

START = datetime(2026, 11, 1, tzinfo=UTC)


def minutes(count: int) -> datetime:
    return START + timedelta(minutes=count)


def test_a_point_has_what_the_last_sample_before_it_said():
    samples = [
        Sample(minutes(-90), 5, 100),
        Sample(minutes(10), 7, 100),
        Sample(minutes(20), 9, 50),
    ]
    found = points(samples, start=START, end=minutes(30), step=timedelta(minutes=10))
    assert [(point.at, point.usage_bytes, point.quota_bytes) for point in found] == [
        (minutes(0), 5, 100),
        (minutes(10), 7, 100),
        (minutes(20), 9, 50),
        (minutes(30), 9, 50),
    ]


def test_nothing_is_said_of_the_time_before_the_first_sample():
    found = points(
        [Sample(minutes(15), 1, 2)], start=START, end=minutes(30), step=timedelta(minutes=10)
    )
    assert [point.at for point in found] == [minutes(20), minutes(30)]


@given(
    moments=st.lists(st.integers(-100, 500), unique=True),
    length=st.integers(1, 400),
    step=st.integers(1, 60),
)
def test_every_point_agrees_with_looking_the_moment_up(moments, length, step):
    samples = [Sample(minutes(moment), moment + 100, 1000) for moment in sorted(moments)]
    found = points(samples, start=START, end=minutes(length), step=timedelta(minutes=step))
    wanted = {}
    for moment in [*range(0, length, step), length]:
        before = [item for item in samples if item.at <= minutes(moment)]
        if before:
            wanted[minutes(moment)] = before[-1].usage_bytes
    assert {point.at: point.usage_bytes for point in found} == wanted


@given(st.integers(1, 3660 * 86_400))
def test_the_usual_step_never_asks_for_too_many_points(seconds):
    step = usual_step(START, START + timedelta(seconds=seconds))
    assert 1 <= timedelta(seconds=seconds) / step + 1 <= MOST_POINTS or seconds < 60
