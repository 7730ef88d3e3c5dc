"""Figures as people read them."""

import pytest

from quota.words import format_bytes, format_seconds, ordinal, plural


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KB"),
        (1075, "1 KB"),
        (1076, "1.1 KB"),
        (1536, "1.5 KB"),
        (1024**2 - 1, "1 MB"),
        (12 * 1024**2, "12 MB"),
        (43_201_331, "41.2 MB"),
        (10 * 1024**3, "10 GB"),
        (1024**4, "1 TB"),
        (1024**7, "1024 EB"),
    ],
)
def test_sizes_have_one_decimal_place_and_units_of_1024(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (10, "10th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (22, "22nd"),
        (111, "111th"),
        (121, "121st"),
    ],
)
def test_ordinals(number, text):
    assert ordinal(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (86_400, "1 day"),
        (10**6, "11 days"),
    ],
)
def test_lengths_of_time_are_whole_units(seconds, text):
    assert format_seconds(seconds) == text


def test_plural():
    assert [plural(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
