from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.timestamps import InvalidTimestamp, format_timestamp, parse_timestamp, to_ns

_LAST = datetime(2262, 4, 11, tzinfo=UTC)


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_every_nanosecond_survives_the_way_to_text_and_back(nanoseconds):
    assert parse_timestamp(format_timestamp(nanoseconds)) == nanoseconds


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(2262, 4, 9)),  # noqa: DTZ001 - a wall clock
    st.integers(min_value=-(23 * 60 + 59), max_value=23 * 60 + 59),
)
def test_offsets_and_fractions_mean_what_datetime_takes_them_for(wall, offset):
    moment = wall.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert parse_timestamp(moment.isoformat()) == to_ns(moment)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.1Z", 100_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T19:00:00-05:00", 0),
        ("1970-01-01t00:00:01z", 1_000_000_000),
        ("2026-11-23T20:58:28.242777812Z", 1795467508_242777812),
        ("2024-02-29T12:00:00Z", 1709208000_000000000),
    ],
)
def test_known_times(text, nanoseconds):
    assert parse_timestamp(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-23",
        "2026-11-23T20:58:28",
        "2026-11-23 20:58:28Z",
        "2026-11-23T20:58:28.Z",
        "2026-11-23T20:58:28.1234567890Z",
        "2026-11-23T20:58:28,5Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T23:60:00Z",
        "2026-11-23T23:59:60Z",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-23T20:58:28+24:00",
        "2026-11-23T20:58:28+00:60",
        "2026-11-23T20:58:28+0000",
        "2026-11-23T20:58:28Z\n",
        "٢٠٢٦-11-23T20:58:28Z",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "2262-04-12T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "x" * 100_000,
    ],
)
def test_what_is_no_time_is_refused_with_words(text):
    with pytest.raises(InvalidTimestamp, match="timestamp") as caught:
        parse_timestamp(text)
    assert len(str(caught.value)) < 300


def test_the_last_believable_time_fits_a_bigint():
    assert to_ns(_LAST) < 2**63


@given(
    st.integers(min_value=-2, max_value=2**63 // 10**9 + 2),
    st.text("0123456789", min_size=1, max_size=11),
)
def test_a_second_that_was_read_before_is_read_the_same_again(seconds, fraction):
    """Thousands of events share one: it is not taken apart anew for each."""
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    text = f"{whole:%Y-%m-%dT%H:%M:%S}.{fraction}"
    told: list[int | None] = []
    for offset in ("Z", "+00:00", "Z"):
        try:
            told.append(parse_timestamp(text + offset))
        except InvalidTimestamp:
            told.append(None)
    assert len(set(told)) == 1, told
