"""Progress of long work: a bar with rate and remaining time on a terminal, a line now and then elsewhere.

All of it goes to standard error: standard output is for results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli.console import errors, plain

LINE_SECONDS = 5.0

Advance = Callable[[float], None]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task.completed, task.elapsed or 0.0), style="dim")


@contextmanager
def progress(
    what: str,
    total: float | None,
    *,
    unit: str,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Advance]:
    """Yield a function that takes how much more is done. `total` None: not known."""
    if errors.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(
                "{task.completed:.0f} " + unit
                if total is None
                else "{task.completed:.0f}/{task.total:.0f} " + unit
            ),
            _Rate(),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
        ) as bar:
            task = bar.add_task(what, total=total)
            yield lambda more: bar.advance(task, more)
        return
    started = told = clock()
    done = 0.0

    def advance(more: float) -> None:
        nonlocal done, told
        done += more
        now = clock()
        if now - told >= LINE_SECONDS:
            told = now
            errors.print(plain(line(what, done, total, now - started, unit=unit)), soft_wrap=True)

    yield advance


def line(what: str, done: float, total: float | None, seconds: float, *, unit: str) -> str:
    """`reading: 200/1000 letters, 40/s, about 20 s left`. PURE."""
    text = f"{what}: {done:.0f}{'' if total is None else f'/{total:.0f}'} {unit}"
    if seconds > 0:
        text += f", {_rate(done, seconds)}"
    if total is not None and 0 < done < total:
        text += f", about {seconds / done * (total - done):.0f} s left"
    return text


def _rate(done: float, seconds: float) -> str:
    return f"{done / seconds:.0f}/s" if seconds > 0 else ""
