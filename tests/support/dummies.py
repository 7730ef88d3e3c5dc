"""Small programs that stand in for parts of a stack, and what starts a supervisor of them."""

import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devstack.parts import Part, Say
from devstack.processes import Launch
from devstack.rundir import RunDir
from devstack.supervisor import Supervisor

READY = "open('ready', 'w').close()"
"""Says that the program works; its part answers once the file is there."""

WAITS = f"import time; {READY}; time.sleep(600)"
ENDS_WELL = READY
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"


@dataclass(eq=False)
class Dummy(Part):
    """A Python program in a folder of its own; it answers once it has written `ready` there.

    `on_prepare` is called before its first start.
    """

    name: str
    folder: Path
    program: str = WAITS
    needs: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    once: bool = False  # type: ignore[misc]
    on_prepare: Callable[[], None] = field(default=lambda: None)

    async def prepare(self, say: Say) -> None:  # noqa: ARG002 - quick
        """Make the folder."""
        self.on_prepare()
        self.folder.mkdir(parents=True, exist_ok=True)

    def launch(self) -> Launch:
        """The program, by this very Python."""
        (self.folder / "ready").unlink(missing_ok=True)
        code = f"import os; os.chdir({str(self.folder)!r}); {self.program}"
        return Launch(argv=(sys.executable, "-c", code))

    async def answers(self) -> None:
        """The file is there."""
        if not (self.folder / "ready").exists():
            raise FileNotFoundError


class Lines(list[str]):
    """A `Say` that keeps what it was told."""

    def __call__(self, line: str, /) -> None:
        """Keep it."""
        self.append(line)


@asynccontextmanager
async def supervised(
    parts: Iterable[Part], root: Path, say: Lines
) -> AsyncIterator[tuple[Supervisor, RunDir]]:
    """The parts, all up; ended afterwards."""
    run_dir = RunDir(root)
    run_dir.create()
    supervisor = Supervisor(parts, run_dir, say)
    try:
        await supervisor.bring_up()
        yield supervisor, run_dir
    finally:
        await supervisor.end()
