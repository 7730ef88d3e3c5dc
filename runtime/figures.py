"""Figures as people read them, wherever they stand: bytes, shares of a whole, moments. PURE."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def readable(size: int, units: Sequence[str] = _UNITS) -> str:
    """`0 B`, `512 B`, `41.2 MiB`, `10 GiB`: one decimal place, none where it is 0, halves rounded up.

    Each unit is 1024 of the one before. What is below 0 has its sign before it.
    """
    if size < 0:
        return f"-{readable(-size, units)}"
    power = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    unit = 1 << 10 * power
    tenths = (size * 20 + unit) // (2 * unit)
    if tenths == 10_240 and power + 1 < len(units):
        power, tenths = power + 1, 10  # 1023.99 KiB would read as 1024 KiB
    return f"{_tenths(tenths)} {units[power]}"


def percent(part: int, whole: int) -> str:
    """`67.9 %`, `70 %`: one decimal place, none where it is 0.

    Cut off, not rounded: no threshold is shown that is not reached yet.
    """
    return f"{_tenths(part * 1000 // whole)} %"


def in_utc(value: datetime | str, *, seconds: bool = False) -> str:
    """A moment, or its ISO 8601 text, in UTC: `2026-12-01 10:42`. That it is UTC stands beside it.

    With `seconds`, for what follows within a minute: `2026-12-01 10:42:06`.
    """
    told = datetime.fromisoformat(value) if isinstance(value, str) else value
    return told.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def _tenths(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10}".removesuffix(".0")
