"""How commands talk: tables for people, JSON for programs, one sentence for errors."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from quota.words import format_seconds
from runtime.figures import in_utc

console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)

# What could move the cursor or colour a terminal, or is no text at all, from names that somebody else chose.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


_FRAME: Final = 3
"""Characters that a column of a table takes beside its text."""
_SOME_LETTERS: Final = 9


class CommandError(Exception):
    """A command failed: what happened and what to do next. `exit_code` as the contract says."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def harmless(value: object) -> str:
    """Text from outside without what a terminal would obey."""
    return _CONTROL.sub("�", str(value))


def plain(value: object) -> str:
    """Text from outside, made harmless for a terminal and for rich's markup."""
    return escape(harmless(value))


def image_name(repository: str, tags: Sequence[str], digest: str) -> str:
    """`acme/api:1.2, latest`, or `acme/api@sha256:0123456789ab` without a tag. PURE."""
    return f"{repository}:{', '.join(tags)}" if tags else f"{repository}@{digest[:19]}"


def ago(moment: str | None, now: datetime) -> str | None:
    """`3 days ago`, of an ISO 8601 moment; None stays None. PURE."""
    if moment is None:
        return None
    seconds = max(int((now - datetime.fromisoformat(moment)).total_seconds()), 0)
    return f"{format_seconds(seconds)} ago"


def second_of(told: str) -> str:
    """`2026-12-01 10:42:06` (UTC) of a text from outside; as it was told where that is no moment. PURE."""
    try:
        return in_utc(told, seconds=True)
    except ValueError:
        return told


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    names: Sequence[str] = (),
    usual: Mapping[str, str] = MappingProxyType({}),
    to: Console | None = None,
) -> None:
    """Print a table; columns that begin with `>` are set to the right.

    `names`: columns that name a row, for people to copy: in one line where the terminal has the room.
    `usual`: columns that a terminal shows only where some row has another value than this.
    Where nobody looks (a pipe, a file) the table has no frame, and a line a row, however wide.
    """
    titles = [column.removeprefix(">") for column in columns]
    right = [column.startswith(">") for column in columns]
    cells = [[harmless(cell) for cell in row] for row in rows]
    shown = console if to is None else to
    if not shown.is_terminal:
        lines = aligned([titles, *cells], right)
        print("\n".join([*([title] if title else []), *lines]), file=shown.file)
        return
    told = [
        number
        for number, name in enumerate(titles)
        if name not in usual or any(row[number] != usual[name] for row in cells)
    ]
    titles, right = [titles[number] for number in told], [right[number] for number in told]
    cells = [[row[number] for number in told] for row in cells]
    view = Table(title=title or None, title_justify="left", header_style="bold", pad_edge=False)
    unbroken = names if _has_room(shown.width, titles, cells, names) else ()
    for column, to_the_right in zip(titles, right, strict=True):
        # Folded, never cut: the end of a name or a digest is often what tells two rows apart.
        view.add_column(
            column,
            justify="right" if to_the_right else "left",
            overflow="fold",
            no_wrap=column in unbroken,
        )
    for row in cells:
        view.add_row(*map(Text, row))
    shown.print(view)


def _has_room(
    width: int, titles: Sequence[str], cells: Sequence[Sequence[str]], names: Sequence[str]
) -> bool:
    """Whether columns stay whole and the others still have some letters each. PURE."""
    needed = 0
    for title, column in zip(titles, zip(titles, *cells, strict=True), strict=True):
        widest = max(map(cell_len, column))
        needed += _FRAME + (widest if title in names else min(widest, _SOME_LETTERS))
    return needed <= width


def tell_cut(limit: int) -> None:
    """Say on standard error that a list ends before its end."""
    errors.print(f"the newest {limit} of more: --limit shows them")


def aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """A line for each row, the cells of a column under each other. PURE."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = zip(row, gaps, right, strict=True)
        lines.append(
            "  ".join(gap + cell if flush else cell + gap for cell, gap, flush in cells).rstrip()
        )
    return lines


def emit_json(document: Any) -> None:
    """Print a document for programs."""
    print(json_text(document, indent=2))


def json_text(document: Any, *, indent: int | None = None) -> str:
    """A document as JSON; what a terminal would obey is escaped in it. PURE."""
    text = json.dumps(document, ensure_ascii=False, indent=indent, default=str)
    # Line feeds are ours: those in strings `dumps` has escaped.
    return "\n".join(_CONTROL.sub(_escape, line) for line in text.split("\n"))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def print_error(message: str) -> None:
    """Say what went wrong; what takes several lines (the end of a log, a configuration) keeps them."""
    lines = "\n".join(plain(line) for line in message.split("\n"))
    errors.print(f"[bold red]registry-quota:[/] {lines}", soft_wrap=True)
