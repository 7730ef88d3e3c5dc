"""Starting programs: as children that end with us, as another user, or run to their end."""

import asyncio
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from devstack.errors import StackError

T = TypeVar("T")

RUN_DIR_MARK = "RQ_STACK_RUN_DIR"
PART_MARK = "RQ_STACK_PART"
"""Environment of every process of a stack: tells a later start what an earlier one left."""

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Account:
    """An unprivileged user that a root supervisor runs a part as.

    `pass_folders` lets the process read and enter folders that are closed to that user (a clone
    below /root), by the one capability CAP_DAC_OVERRIDE, instead of changing modes of folders.
    """

    name: str
    uid: int
    gid: int
    pass_folders: bool = False


@dataclass(frozen=True)
class Launch:
    """How a part's process is started and asked to end.

    `env` is added to ours without its `REGISTRY_*`, which a registry would take for settings.
    `death_signal` is what the kernel sends the process when the supervisor dies (Linux).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL


def start(launch: Launch, *, output: int, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a part. `output` is the file descriptor of its log; the pid is the program's own.

    Call this from the main thread: the kernel ties `death_signal` to the thread that started it.
    """
    return _popen(
        launch.argv,
        account=launch.account,
        death_signal=launch.death_signal,
        output=output,
        env={**launch.env, **env},
    )


def _popen(
    argv: Sequence[str],
    *,
    account: Account | None,
    death_signal: signal.Signals,
    output: int,
    env: Mapping[str, str],
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Run `argv` in a session of its own: a Ctrl-C at the terminal reaches the supervisor only."""
    setpriv = _setpriv()
    changes_user = account if setpriv is None else None
    return subprocess.Popen(
        [*_setpriv_prefix(setpriv, account, death_signal), *argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**_inherited(), **env},
        cwd=cwd,
        start_new_session=True,
        user=changes_user.uid if changes_user else None,
        group=changes_user.gid if changes_user else None,
        extra_groups=[] if changes_user else None,
    )


def _setpriv_prefix(
    setpriv: str | None, account: Account | None, death_signal: signal.Signals
) -> tuple[str, ...]:
    """What goes before a command line: setpriv replaces itself by the program, no wrapper stays."""
    if setpriv is None:
        return ()
    dies = (setpriv, "--pdeathsig", death_signal.name.removeprefix("SIG"))
    if account is None:
        return (*dies, "--")
    capabilities = "+dac_override" if account.pass_folders else "-all"
    return (
        *dies,
        *("--reuid", str(account.uid), "--regid", str(account.gid), "--clear-groups"),
        *("--inh-caps", capabilities, "--ambient-caps", capabilities, "--"),
    )


def _inherited() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}


@cache
def _setpriv() -> str | None:
    """The path of util-linux's setpriv, None where it is missing or another one."""
    path = shutil.which("setpriv")
    if path is None:
        return None
    probe = subprocess.run(
        [path, "--pdeathsig", "TERM", "--", "true"], capture_output=True, check=False
    )
    return path if probe.returncode == 0 else None


def package_folder(name: str) -> Path:
    """Folder of an installed package, which is not imported: only its programs are of use here.

    Raises StackError when it is not installed.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(
            f"the Python package {name} is not installed: run `make setup`, "
            "or install registry-quota with its extra: pip install 'registry-quota[devstack]'"
        )
    return Path(spec.origin).parent


def exit_text(code: int) -> str:
    """A return code of Popen as words: `exit code 1`, `SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process to end; its return code.

    Polls instead of asyncio's own children: those need a watcher thread or a given loop type.
    """
    while (code := process.poll()) is None:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(_POLL_SECONDS)
    return code


async def run_tool(
    argv: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
) -> str:
    """Run a program to its end and return what it printed; cancelling ends it.

    Raises StackError `WHAT failed` with the last lines when it cannot be run or does not exit 0.
    """
    read, write = os.pipe()
    printed: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(read, printed), daemon=True)
    try:
        process = _popen(
            [str(word) for word in argv],
            account=account,
            death_signal=signal.SIGKILL,
            output=write,
            env=env or {},
            cwd=cwd,
        )
    except OSError as error:
        os.close(read)
        raise StackError(f"{what} failed: {argv[0]}: {error.strerror}") from error
    finally:
        os.close(write)
    reader.start()
    try:
        code = await ended(process)
    finally:
        _kill_group(process)
        reader.join(timeout=1)
    text = b"".join(printed).decode(errors="replace")
    if code != 0:
        raise StackError(f"{what} failed ({exit_text(code)}): {last_lines(text, 6)}")
    return text


@asynccontextmanager
async def running(argv: Sequence[str]) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a program beside what is done inside; what still runs afterwards is killed."""
    process = _popen(
        argv, account=None, death_signal=signal.SIGKILL, output=subprocess.DEVNULL, env={}
    )
    try:
        yield process
    finally:
        _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _drain(descriptor: int, into: list[bytes]) -> None:
    with os.fdopen(descriptor, "rb") as pipe:
        while chunk := pipe.read1(65536):
            into.append(chunk)


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work beside the loop, in a daemon thread: unlike the loop's own executor it never
    holds up our end (a download cannot be cancelled).
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(result)  # type: ignore[arg-type]
        else:
            outcome.set_exception(error)

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as failure:  # noqa: BLE001 - handed to the one who waits
            result, error = None, failure
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=run, daemon=True, name="devstack-work").start()
    return await outcome


def last_lines(text: str, count: int) -> str:
    """The last `count` lines of a text that are not empty, for messages."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n    ".join(lines[-count:])
