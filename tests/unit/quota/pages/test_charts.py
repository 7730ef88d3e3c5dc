"""Every part of a bar or chart lies where it can be seen."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quota.history import Point
from quota.pages.charts import BAR_WIDTH, CHART_HEIGHT, CHART_WIDTH, bar, chart, rows

SIZES = st.integers(0, 2**62)
START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + timedelta(days=7)


@given(st.integers(1, 2**62), SIZES, SIZES, SIZES)
def test_the_parts_of_a_bar_lie_side_by_side_within_it(quota, usage, reserved, awaiting):
    drawn = bar(
        quota_bytes=quota, usage_bytes=usage, reserved_bytes=reserved, awaiting_bytes=awaiting
    )
    assert drawn.used.x == 0
    assert drawn.reserved.x == drawn.used.width
    for part in (drawn.used, drawn.reserved, drawn.awaiting):
        assert part.width >= 0
        assert part.x + part.width <= BAR_WIDTH + 0.01
    assert [percent for percent, _x in drawn.thresholds] == [70, 90, 100]
    assert all(0 <= x <= BAR_WIDTH for _percent, x in drawn.thresholds)


@given(
    st.lists(st.tuples(st.integers(0, 7 * 1440), SIZES), min_size=1, max_size=20),
    st.integers(1, 2**62),
    st.lists(st.integers(-1440, 9 * 1440), max_size=5),
)
def test_a_chart_shows_every_point_and_the_cleanups_of_its_time(given_points, quota, cleanups):
    points = [
        Point(START + timedelta(minutes=minute), usage, quota)
        for minute, usage in sorted(given_points)
    ]
    moments = [(START + timedelta(minutes=minute), 1) for minute in cleanups]
    drawn = chart(points, moments, start=START, end=END)
    assert drawn is not None
    assert drawn.highest.usage_bytes == max(point.usage_bytes for point in points)
    assert drawn.last == points[-1]
    assert len(drawn.marks) == sum(START <= moment <= END for moment, _freed in moments)
    assert all(0 <= mark.x <= CHART_WIDTH for mark in drawn.marks)
    assert all(0 <= line.y <= CHART_HEIGHT for line in drawn.thresholds)


def test_without_points_there_is_no_chart():
    assert chart([], [], start=START, end=END) is None


def test_the_table_beside_a_chart_is_short_and_ends_with_now():
    points = [Point(START + timedelta(hours=hour), hour, 100) for hour in range(160)]
    shown = rows(points)
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == (points[0], points[-1])
