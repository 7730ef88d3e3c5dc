"""`registry-quota ARGUMENTS` as processes that need not import their libraries anew.

Two thirds of what a command costs is the import of libraries. A server that has imported them forks for
each command: a process with arguments, environment, standard streams, signals and exit code of its own,
as `python -m cli.main` is. What asks the environment or the terminal while it is imported (`cli`, and
what of typer looks for a terminal) is imported after the fork. What starts from nothing is for the
tests that run the installed program (`test_completion.py`) and those of `tests/support/programs.py`.
"""

import asyncio
import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_IMPORTED: Final = (
    "aiohttp.web",
    "aiokafka.admin",
    "asyncpg",
    "rich.markdown",
    "rich.progress",
    "rich.table",
    "structlog.dev",
    "typer.main",
    # Of ours, what imports much; none of it looks at the environment before it is called.
    "devstack.rundir",
    "quota.policy",
    "registry.client",
    "registry.notifications",
    "registry_quota",
    "runtime.kafka",
    "runtime.logs",
    "runtime.postgres",
    "runtime.settings",
    "runtime.tls",
)
_START_SECONDS: Final = 30.0
_LENGTH: Final = 8


class Started:
    """A command that was started."""

    def __init__(self, pid: int, told: socket.socket) -> None:
        self.pid = pid
        self._told = told

    async def wait(self, within: float) -> int:
        """Its exit code, minus the number of the signal that ended it. Raises TimeoutError."""
        async with asyncio.timeout(within):
            code = await asyncio.get_running_loop().sock_recv(self._told, _LENGTH)
        self._told.close()
        return int.from_bytes(code, signed=True)

    def end(self) -> None:
        """Whatever its state, it is gone afterwards."""
        if self._told.fileno() != -1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._told.close()


class Commands:
    """Starts commands; `running_commands` makes one."""

    def __init__(self, address: Path) -> None:
        self._address = str(address)

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[int]
    ) -> Started:
        """Start a command. `streams`: descriptors of its standard input, output and error."""
        asked = json.dumps({"arguments": list(arguments), "environment": dict(environment)})
        body = asked.encode()
        told = socket.socket(socket.AF_UNIX)
        told.settimeout(_START_SECONDS)
        told.connect(self._address)
        socket.send_fds(told, [len(body).to_bytes(_LENGTH)], list(streams))
        told.sendall(body)
        pid = int.from_bytes(told.recv(_LENGTH))
        told.setblocking(False)
        return Started(pid, told)


@contextmanager
def running_commands(folder: Path) -> Iterator[Commands]:
    """A server of commands whose socket is in `folder`; it ends with the process that asked for it."""
    address = folder / "commands"
    server = subprocess.Popen(
        # Not `-m`, which commands would take for the way in which they were called.
        [sys.executable, "-c", f"from {__name__} import serve; serve({str(address)!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        yield Commands(address)
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(10)


def _next_command(address: str) -> Mapping[str, object] | None:
    """In a process forked for it: a command, its streams in place. None when the server ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(sys.stdout.fileno(), b"ready\n")
        while True:
            readable, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in readable:
                return None
            told, _ = listener.accept()
            if os.fork() == 0:
                break
            told.close()
    # This process watches the command, which is its child.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(told, _LENGTH, 3)
    length = int.from_bytes(head)
    body = b""
    while len(body) < length:
        body += told.recv(length - len(body))
    if child := os.fork():
        for stream in (*streams, 0, 1, 2):
            os.close(stream)
        told.sendall(child.to_bytes(_LENGTH))
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):  # nobody waits any more
            told.sendall(os.waitstatus_to_exitcode(status).to_bytes(_LENGTH, signed=True))
        os._exit(0)
    told.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    command: Mapping[str, object] = json.loads(body)
    return command


def serve(address: str) -> None:
    """The server, until its standard input ends; then, in a process of its own, each command."""
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the watching processes leave nothing behind
    command = _next_command(address)
    if command is None:
        return
    os.environ.clear()
    os.environ.update(command["environment"])  # type: ignore[call-overload]
    sys.argv = ["registry-quota", *command["arguments"]]  # type: ignore[misc]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = io.TextIOWrapper(
            open(number, "wb" if number else "rb", closefd=False),  # noqa: SIM115 - the process's own
            encoding="utf-8",
            errors="backslashreplace" if name == "stderr" else "strict",
            line_buffering=os.isatty(number) or name == "stderr",
        )
        setattr(sys, name, stream)
    main = importlib.import_module("cli.main").main
    main()
