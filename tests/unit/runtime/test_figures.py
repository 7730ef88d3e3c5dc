"""Figures as people read them: one form of each, and one place where it is made."""

import re
from datetime import UTC, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.figures import in_utc, percent, readable

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1075, "1 KiB"),
        (1076, "1.1 KiB"),
        (1024**2 - 1, "1 MiB"),
        (43_201_331, "41.2 MiB"),
        (10 * 1024**3, "10 GiB"),
        (1024**7, "1024 EiB"),
        (-1536, "-1.5 KiB"),
    ],
)
def test_bytes_have_one_decimal_place_and_none_where_it_is_0(size, text):
    assert readable(size) == text


@given(st.integers(0, 2**70))
def test_bytes_are_what_they_read_as_to_half_a_tenth(size):
    number, unit = readable(size).split()
    whole = 1024 ** UNITS.index(unit)
    assert abs(Fraction(number) * whole - size) <= Fraction(whole, 20)
    assert not number.endswith(".0")
    assert unit == "EiB" or Fraction(number) < 1024
    assert readable(-size) == (f"-{readable(size)}" if size else "0 B")
    assert readable(size, [name.replace("i", "") for name in UNITS]).split()[0] == number


@given(st.integers(0, 2**60), st.integers(1, 2**60))
def test_no_share_is_shown_that_is_not_reached_yet(part, whole):
    number, sign = percent(part, whole).split(" ")
    assert sign == "%"
    assert Fraction(number) <= Fraction(part * 100, whole) < Fraction(number) + Fraction(1, 10)
    assert not number.endswith(".0")


@given(st.datetimes().filter(lambda naive: 1000 <= naive.year < 9999), st.integers(-720, 720))
def test_a_moment_reads_the_same_wherever_it_was_told(naive, minutes):
    told = naive.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=minutes)))
    assert in_utc(told) == in_utc(told.isoformat()) == f"{naive:%Y-%m-%d %H:%M}"
    assert in_utc(told, seconds=True) == f"{naive:%Y-%m-%d %H:%M:%S}"


OTHER_FORMS = re.compile(
    r"""%Y|%H:%M|strftime|:\.\d%|\[:1[69]\]\.replace|\d[f}]\}? ?%["' ]|ratio \* 100"""
)
FOR_OTHERS = {
    "runtime/figures.py",
    "runtime/logs.py",  # a log's line on a terminal
    "quota/api/answers.py",  # JSON
    "quota/pages/render.py",  # `datetime` of <time>; the clock of what changes by the second
    "cli/images.py",  # how a date may be written
    "devstack/foreground.py",  # the time of day before each line
}


def test_nothing_else_makes_a_moment_or_a_share_for_people():
    folders = ("alerts", "cli", "consumer", "devstack", "quota", "runtime", "webhook_receiver")
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if OTHER_FORMS.search(path.read_text())
    }
    assert found == FOR_OTHERS
