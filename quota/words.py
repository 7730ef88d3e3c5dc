"""Figures as people read them in reasons and messages. PURE."""

from typing import Final

from runtime.figures import readable

_SIZE_UNITS: Final = ("B", "KB", "MB", "GB", "TB", "PB", "EB")
_TIME_UNITS: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def format_bytes(size: int) -> str:
    """Bytes as `0 B`, `512 B`, `41.2 MB`, `10 GB`: units of 1024, one decimal place, none where it is 0."""
    return readable(size, _SIZE_UNITS)


def ordinal(number: int) -> str:
    """1 → `1st`, 2 → `2nd`, 11 → `11th`."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number // 10 % 10 == 1 else suffix}"


def plural(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 repositories`."""
    if number == 1:
        return f"{number} {noun}"
    ending = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"
    return f"{number} {ending}"


def format_seconds(seconds: int) -> str:
    """A length of time in its largest whole unit: `45 seconds`, `2 hours`, `1 day`."""
    for unit, noun in _TIME_UNITS:
        if seconds >= unit:
            return plural(seconds // unit, noun)
    return "0 seconds"
