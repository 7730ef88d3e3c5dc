"""Bytes as people read them. PURE."""

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def readable(size: int) -> str:
    """`0 B`, `512 B`, `41.2 MiB`: units of 1024, one decimal place, halves rounded up."""
    power = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    if power == 0:
        return f"{size} B"
    unit = 1 << 10 * power
    tenths = (size * 20 + unit) // (2 * unit)
    if tenths == 10_240 and power + 1 < len(_UNITS):
        power, tenths = power + 1, 10  # 1023.99 KiB would read as 1024.0 KiB
    return f"{tenths // 10}.{tenths % 10} {_UNITS[power]}"
