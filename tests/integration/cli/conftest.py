"""A whole system for the commands that talk to one, and a way to call them as a person does."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.support.commands import Commands, running_commands
from tests.support.system import System, running_system


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Awaitable[Ran]]


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Everything, beside any registry that can be had."""
    async with running_system(tmp_path_factory.mktemp("system"), "2") as running:
        yield running


@pytest.fixture(scope="package")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Starts `registry-quota` quickly, in processes of its own."""
    with running_commands(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture
def command(system: System, commands: Commands) -> Command:
    """`await command("doctor", "--json", RQ_API_TOKEN="x")`: the program itself, beside the system."""

    async def run(*arguments: str, stdin: str = "", **environment: str) -> Ran:
        (stdin_read, stdin_write), *outputs = (os.pipe() for _ in range(3))
        process = commands.start(
            arguments,
            _clean() | {"RQ_RUN_DIR": str(system.stack.run_dir.root)} | environment,
            [stdin_read, *(write for _, write in outputs)],
        )
        for ours in (stdin_read, *(write for _, write in outputs)):
            os.close(ours)
        try:
            with suppress(BrokenPipeError):
                os.write(stdin_write, stdin.encode())
            os.close(stdin_write)
            reading = (asyncio.to_thread(_everything, read) for read, _ in outputs)
            out, err = await asyncio.wait_for(asyncio.gather(*reading), 60)
            return Ran(await process.wait(10), out.decode(), err.decode())
        finally:
            process.end()

    return run


@pytest.fixture
def on_a_terminal(system: System, commands: Commands) -> Command:
    """As `command`, on a terminal of 80 columns where somebody answers what it asks."""

    async def run(*arguments: str, answer: str = "", **environment: str) -> Ran:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        process = commands.start(
            arguments,
            {k: v for k, v in _clean().items() if k not in {"COLUMNS", "NO_COLOR"}}
            | {"RQ_RUN_DIR": str(system.stack.run_dir.root), "TERM": "xterm"}
            | environment,
            [theirs, theirs, theirs],
        )
        os.close(theirs)
        try:
            if answer:
                os.write(ours, f"{answer}\n".encode())
            shown = await asyncio.wait_for(asyncio.to_thread(_everything, ours), 60)
            code = await process.wait(10)
        finally:
            process.end()
        return Ran(code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()), "")

    return run


def _clean() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("RQ_", "ORBIT_"))
    }


def _everything(stream: int) -> bytes:
    """All that is written at its other end, which is closed at the end."""
    read = b""
    # Linux says EIO when the other end of a terminal is closed.
    with suppress(OSError):
        while chunk := os.read(stream, 65536):
            read += chunk
    os.close(stream)
    return read
