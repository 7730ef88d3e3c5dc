"""A whole system for the commands that talk to one, and a way to call them as a person does."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.support.system import System, running_system


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Awaitable[Ran]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Everything, beside any registry that can be had."""
    async with running_system(tmp_path_factory.mktemp("system"), "2") as running:
        yield running


@pytest.fixture
def command(system: System) -> Command:
    """`await command("doctor", "--json", RQ_API_TOKEN="x")`: the program itself, beside the system."""

    async def run(*arguments: str, stdin: str = "", **environment: str) -> Ran:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RQ_", "ORBIT_"))
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli.main",
            *arguments,
            env=clean | {"RQ_RUN_DIR": str(system.stack.run_dir.root)} | environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        return Ran(process.returncode or 0, out.decode(), err.decode())

    return run


@pytest.fixture
def on_a_terminal(system: System) -> Command:
    """As `command`, on a terminal of 80 columns where somebody answers what it asks."""

    async def run(*arguments: str, answer: str = "", **environment: str) -> Ran:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RQ_", "ORBIT_")) and name not in {"COLUMNS", "NO_COLOR"}
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli.main",
            *arguments,
            env=clean
            | {"RQ_RUN_DIR": str(system.stack.run_dir.root), "TERM": "xterm"}
            | environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        if answer:
            os.write(ours, f"{answer}\n".encode())
        shown = b""
        while chunk := await asyncio.to_thread(_read, ours):
            shown += chunk
        os.close(ours)
        code = await asyncio.wait_for(process.wait(), 60)
        return Ran(code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()), "")

    return run


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""
