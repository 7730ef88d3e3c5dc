"""What a run that was killed has left running."""

import contextlib
import os
import signal
from pathlib import Path

import psutil

from devstack.parts import Say
from devstack.processes import PART_MARK, RUN_DIR_MARK

_WILLING_SECONDS = 3.0


def find(run_dir: Path) -> list[tuple[str, psutil.Process]]:
    """(part, process) of every process that a supervisor of this run dir once started.

    Found by the mark in their environment, so that a reused pid is never taken for one.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(RUN_DIR_MARK) == str(run_dir) and process.pid != os.getpid():
                found.append((environment.get(PART_MARK, "?"), process))
    return found


def end(run_dir: Path, say: Say) -> None:
    """End them; for a supervisor that holds the run dir's lock, so that none of them is in use."""
    left = find(run_dir)
    if not left:
        return
    names = ", ".join(f"{name} (pid {process.pid})" for name, process in left)
    say(f"an earlier run was killed; ending what it left: {names}")
    for name, process in left:
        with contextlib.suppress(psutil.Error):
            # Postgres takes SIGTERM as "when all clients have left".
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    processes = [process for _, process in left]
    _, stubborn = psutil.wait_procs(processes, timeout=_WILLING_SECONDS)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_WILLING_SECONDS)
