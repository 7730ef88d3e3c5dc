"""Our programs as real processes, to be killed, frozen and watched."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path


class Program:
    """`registry-quota ARGUMENTS` with no settings but its own; its log is a file.

    `code`: a folder with the sources of another release, which runs instead of this one.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        settings: Mapping[str, str],
        log: Path,
        *,
        code: Path | None = None,
    ) -> None:
        self._arguments = arguments
        self._code = code
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RQ_", "ORBIT_"))
        } | dict(settings)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it (again)."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", *self._arguments],
                env=self._environment,
                cwd=self._code,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    async def wait(self, within: float = 20.0) -> int:
        """Its exit code, once it ends by itself. Raises TimeoutExpired."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, within)

    async def stop(self, within: float = 10.0) -> tuple[int, float]:
        """SIGTERM; its exit code, and the seconds that it took. Raises TimeoutExpired."""
        assert self._process is not None
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return await self.wait(within), time.monotonic() - started

    def memory(self) -> int:
        """Resident bytes now."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """Most resident bytes since its start."""
        return self._status("VmHWM")

    def log(self) -> str:
        """Everything it said."""
        return self._log.read_text()

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise LookupError(field)

    def end(self) -> None:
        """Whatever its state, it is gone afterwards."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


@asynccontextmanager
async def running(
    arguments: Sequence[str], settings: Mapping[str, str], log: Path
) -> AsyncIterator[Program]:
    """A started program, ended at the end."""
    program = Program(arguments, settings, log)
    program.start()
    try:
        yield program
    finally:
        program.end()


@asynccontextmanager
async def frozen(pid: int) -> AsyncIterator[None]:
    """SIGSTOP a process meanwhile: its sockets stay open and nothing answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
