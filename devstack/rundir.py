"""The folder of one stack: secrets, kept ports, pids, logs, lock and the `env` file."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devstack.errors import StackError
from devstack.ports import free_port, is_free

LOG_KEEP_BYTES = 20 * 1024 * 1024
"""A part's log above this size is moved aside (NAME.log.1) when the part is started."""


class RunDir:
    """`root` with `pids/NAME.pid`, `logs/NAME.log`, `env`, `state.json` (secrets and ports) and data.

    Secrets and ports are made once and kept, so that the next start continues.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self) -> None:
        """Make the folders. Raises StackError when that is not possible."""
        try:
            # Postgres runs as another user below a root supervisor and has to pass through the root
            # folder: what is secret in it has a mode of its own.
            for folder, mode in ((self.root, 0o755), (self.pids, 0o755), (self.logs, 0o700)):
                folder.mkdir(parents=True, exist_ok=True, mode=mode)
        except OSError as error:
            raise StackError(
                f"cannot create {self.root} ({error.strerror}): "
                "set RQ_RUN_DIR to a folder that you may write to"
            ) from error

    @property
    def pids(self) -> Path:
        """Folder of the pid files."""
        return self.root / "pids"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.root / "logs"

    @property
    def env(self) -> Path:
        """The file that tells other programs how to reach the stack; there while it answers."""
        return self.root / "env"

    def data(self, name: str) -> Path:
        """Folder for a part's data; the part creates it with the mode that it needs."""
        return self.root / name

    def log(self, name: str) -> Path:
        """A part's log file (mode 600: registries print their notification token into it)."""
        return self.logs / f"{name}.log"

    def open_log(self, name: str) -> int:
        """File descriptor to append to a part's log; a big log is moved aside first."""
        path = self.log(name)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_KEEP_BYTES:
                path.replace(path.with_suffix(".log.1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write_pid(self, name: str, pid: int) -> None:
        """Publish a part's process id."""
        write_file(self.pids / f"{name}.pid", f"{pid}\n", mode=0o644)

    def remove_pid(self, name: str) -> None:
        """Take back a part's process id: it ended."""
        (self.pids / f"{name}.pid").unlink(missing_ok=True)

    def secret(self, name: str) -> str:
        """A random text (48 hex digits), the same at every start."""
        return str(self._kept(name, lambda: secrets.token_hex(24)))

    def port(self, name: str) -> int:
        """A free port, the same at every start while nobody else has taken it."""
        key = f"{name}_port"
        kept = self._state().get(key)
        if isinstance(kept, int) and is_free(kept):
            return kept
        port = free_port()
        self._save({**self._state(), key: port})
        return port

    def _kept(self, key: str, make: Any) -> Any:
        state = self._state()
        if key not in state:
            state[key] = make()
            self._save(state)
        return state[key]

    def _state(self) -> dict[str, Any]:
        path = self.root / "state.json"
        try:
            state: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StackError(
                f"{path} is damaged: remove the folder {self.root} to start afresh (its data goes too)"
            ) from error
        return state

    def _save(self, state: Mapping[str, Any]) -> None:
        write_file(self.root / "state.json", json.dumps(state, indent=2) + "\n", mode=0o600)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this folder: two supervisors in one would take each other's parts for leftovers.

        Raises StackError with the other's pid. The kernel lets go of the lock when we die.
        """
        path = self.root / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StackError(
                f"cannot use {self.root} ({error.strerror}): run this as the user who made it, "
                "or set RQ_RUN_DIR to another folder"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                pid = path.read_text().strip() or "unknown"
                raise StackError(
                    f"a stack is already running in {self.root} (pid {pid}): stop it with Ctrl-C in "
                    f"its terminal or `kill {pid}`, or give this one its own RQ_RUN_DIR and ports"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether a supervisor holds this folder now."""
        try:
            descriptor = os.open(self.root / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)


def announce(env: Path, values: Mapping[str, str], cache_dir: Path) -> None:
    """Write the file that tells other programs how to reach a stack, and that it is ours.

    That it is stands where no repository and no archive puts a file: in the user's own cache folder.
    """
    text = render_env(values)
    mark = _mark(env, cache_dir)
    mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_file(mark, _digest(text), mode=0o600)
    write_file(env, text, mode=0o600)


def withdraw(env: Path, cache_dir: Path) -> None:
    """The stack does not answer any more."""
    env.unlink(missing_ok=True)
    _mark(env, cache_dir).unlink(missing_ok=True)


def announced(env: Path, cache_dir: Path) -> dict[str, str] | None:
    """What a stack of this user's on this machine has announced; None where the file is another's.

    Raises OSError or ValueError where there is none that can be read.
    """
    text = env.read_text(encoding="utf-8")
    try:
        marked = _mark(env, cache_dir).read_text(encoding="utf-8")
    except OSError:
        return None
    return parse_env(text) if marked == _digest(text) else None


def _mark(env: Path, cache_dir: Path) -> Path:
    return cache_dir / "stacks" / _digest(str(env.resolve()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def render_env(values: Mapping[str, str]) -> str:
    """`KEY=value` lines that a POSIX shell can source."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def parse_env(text: str) -> dict[str, str]:
    """What `render_env` wrote, read back."""
    values = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            values[key.strip()] = "".join(shlex.split(value))
    return values


def write_file(path: Path, text: str, *, mode: int) -> None:
    """Replace a file in one step; it never exists with a wider mode or half its content."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    fresh.replace(path)
