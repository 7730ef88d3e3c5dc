"""Names that nobody knows here, and the known ones that they may stand for. PURE."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Final

_NAMED: Final = 3
_CUTOFF: Final = 0.6
_EFFORT: Final = 4_000_000
"""Characters of one name times characters of another, over all that are compared: 60 of the longest."""


def near(wanted: str, names: Iterable[str]) -> list[str]:
    """At most three of the names, the likeliest first: other capitals, a slip, a part too few or too many.

    A slip is looked for in as many of the first names as can be compared in some tens of milliseconds.
    """
    folded = wanted.casefold()
    by_folded = {name.casefold(): name for name in names if name != wanted}
    found = dict.fromkeys(
        get_close_matches(folded, _affordable(folded, by_folded), n=_NAMED, cutoff=_CUTOFF)
    )
    last = folded.rpartition("/")[2]
    found |= dict.fromkeys(
        name
        for name in by_folded
        if name.startswith(folded)
        or folded.startswith(f"{name}/")
        or name.rpartition("/")[2] == last
    )
    return [by_folded[name] for name in list(found)[:_NAMED]]


def _affordable(wanted: str, names: Iterable[str]) -> Iterator[str]:
    left = _EFFORT
    for name in names:
        left -= len(wanted) * len(name)
        if left < 0:
            return
        yield name


def did_you_mean(wanted: str, names: Iterable[str]) -> str:
    """`; did you mean acme or acme-2?`; empty where no name is near."""
    found = near(wanted, names)
    return f"; did you mean {' or '.join(found)}?" if found else ""
