"""Bytes as people read them. PURE."""

from collections.abc import Sequence
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def readable(size: int, units: Sequence[str] = _UNITS) -> str:
    """`0 B`, `512 B`, `41.2 MiB`: one decimal place, halves rounded up; each unit 1024 of the one before."""
    power = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    if power == 0:
        return f"{size} B"
    unit = 1 << 10 * power
    tenths = (size * 20 + unit) // (2 * unit)
    if tenths == 10_240 and power + 1 < len(units):
        power, tenths = power + 1, 10  # 1023.99 KiB would read as 1024.0 KiB
    return f"{tenths // 10}.{tenths % 10} {units[power]}"
