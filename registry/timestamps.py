"""RFC 3339 times as integer nanoseconds since the epoch, UTC (pure).

Registries stamp with nanoseconds; `datetime` would round them, and stamps decide who was first.
"""

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

_NS: Final = 1_000_000_000
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_MAX_NS: Final = 2**63 - 1
_LAST_WHOLE_SECOND: Final = _MAX_NS - _NS
_DIGITS: Final = 9
_SCALE: Final[tuple[int, ...]] = tuple(10 ** (_DIGITS - digits) for digits in range(_DIGITS + 1))
"""Digits of a fraction → what its number is multiplied by for nanoseconds."""

_match = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?"
    r"(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
).fullmatch


class InvalidTimestamp(ValueError):  # noqa: N818 - says what it is
    """Not an RFC 3339 time, or outside 1970 to 2262."""


def parse_timestamp(text: str) -> int:
    """RFC 3339, up to nine fractional digits, any offset → nanoseconds since the epoch (UTC).

    Raises InvalidTimestamp, also for times that 64 bits of nanoseconds cannot hold.
    """
    # As registries and our receiver write it: thousands of events share a second.
    fraction = text[20:-1]
    if text[19:20] == "." and text[-1:] == "Z" and fraction.isdigit() and fraction.isascii():
        second = _whole_second(text[:19])
        if second is not None and len(fraction) <= _DIGITS:
            return second + int(fraction) * _SCALE[len(fraction)]
    return _parse(text)


@lru_cache(maxsize=1024)
def _whole_second(text: str) -> int | None:
    """Of a time in UTC without its fraction, away from the ends of what 64 bits can hold."""
    try:
        found = _parse(f"{text}Z")
    except InvalidTimestamp:
        return None
    return found if found < _LAST_WHOLE_SECOND else None


def _parse(text: str) -> int:
    matched = _match(text)
    if matched is None:
        raise InvalidTimestamp(f"timestamp {text[:60]!a} is not an RFC 3339 time")
    year, month, day, hour, minute, second, fraction, sign, off_hour, off_minute = matched.groups()
    try:
        days = _days(year, month, day)
    except ValueError as error:
        raise InvalidTimestamp(f"timestamp {text!a}: {error}") from None
    hours, minutes, seconds = int(hour), int(minute), int(second)
    if hours > 23 or minutes > 59 or seconds > 59:
        raise InvalidTimestamp(f"timestamp {text!a}: no such time of day")
    total = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    if sign is not None:
        if int(off_hour) > 23 or int(off_minute) > 59:
            raise InvalidTimestamp(f"timestamp {text!a}: no such offset")
        offset = int(off_hour) * 3_600 + int(off_minute) * 60
        total += offset if sign == "-" else -offset
    nanoseconds = total * _NS + (int(fraction.ljust(9, "0")) if fraction else 0)
    if not 0 <= nanoseconds <= _MAX_NS:
        raise InvalidTimestamp(f"timestamp {text!a} is outside 1970 to 2262")
    return nanoseconds


@lru_cache(maxsize=64)  # nearly every call is about today
def _days(year: str, month: str, day: str) -> int:
    return date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY


def format_timestamp(nanoseconds: int) -> str:
    """Nanoseconds since the epoch → `2026-11-23T20:58:28.242777812Z`, always nine digits."""
    seconds, fraction = divmod(nanoseconds, _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def to_ns(moment: datetime) -> int:
    """An aware datetime as nanoseconds since the epoch, exact to its microsecond."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1_000
