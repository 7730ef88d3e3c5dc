"""Progress of long work: a bar with rate and remaining time on a terminal, a line now and then elsewhere.

All of it goes to standard error: standard output is for results.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from cli.console import errors, plain

LINE_SECONDS = 5.0
_LOOK_SECONDS = 0.25

Result = TypeVar("Result")


class Work(Protocol):
    """Takes how far the work is."""

    def advance(self, more: float) -> None:
        """`more` is done."""

    def at(self, done: float, total: float | None = None, note: str = "") -> None:
        """`done` in all, of `total` when that is known; `note` is shown beside it."""


class _Figures(ProgressColumn):
    """The words of a line, beside the bar."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(
            figures(
                task.completed,
                task.total,
                task.elapsed or 0.0,
                unit=self._unit,
                note=task.fields["note"],
            )
        )


class _Bar:
    def __init__(self, bar: Progress, what: str, total: float | None) -> None:
        self._bar = bar
        self._task = bar.add_task(plain(what), total=total, note="")

    def advance(self, more: float) -> None:
        self._bar.advance(self._task, more)

    def at(self, done: float, total: float | None = None, note: str = "") -> None:
        self._bar.update(self._task, completed=done, note=note)
        if total is not None:
            self._bar.update(self._task, total=total)


class _Lines:
    def __init__(
        self, what: str, total: float | None, unit: str, clock: Callable[[], float]
    ) -> None:
        self._what, self._total, self._unit, self._clock = what, total, unit, clock
        self._started = self._told = clock()
        self._done = 0.0

    def advance(self, more: float) -> None:
        self.at(self._done + more)

    def at(self, done: float, total: float | None = None, note: str = "") -> None:
        self._done = done
        self._total = self._total if total is None else total
        now = self._clock()
        if now - self._told < LINE_SECONDS:
            return
        self._told = now
        seconds = now - self._started
        said = figures(done, self._total, seconds, unit=self._unit, note=note)
        errors.print(plain(f"{self._what}: {said}"), soft_wrap=True)


@contextmanager
def progress(
    what: str,
    total: float | None = None,
    *,
    unit: str,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Work]:
    """Show how far the work is. `total` None: not known (yet)."""
    if not errors.is_terminal:
        yield _Lines(what, total, unit, clock)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=min(40, errors.width // 8)),
        _Figures(unit),
        console=errors,
        transient=True,
    ) as bar:
        yield _Bar(bar, what, total)


async def watched(running: "asyncio.Future[Result]", look: Callable[[], Awaitable[None]]) -> Result:
    """The result of what runs; `look` tells the progress meanwhile, a few times a second."""
    every = _LOOK_SECONDS if errors.is_terminal else min(1.0, LINE_SECONDS)
    while not (await asyncio.wait([running], timeout=every))[0]:
        await look()
    return await running


def figures(done: float, total: float | None, seconds: float, *, unit: str, note: str = "") -> str:
    """`200/1000 letters, 40/s, about 20 s left`. PURE."""
    parts = [f"{done:.0f}{'' if total is None else f'/{total:.0f}'} {unit}"]
    if note:
        parts.append(note)
    if seconds > 0 and done > 0:
        rate = done / seconds
        parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if total is not None and done < total:
            parts.append(f"about {_time((total - done) / rate)} left")
    return ", ".join(parts)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
