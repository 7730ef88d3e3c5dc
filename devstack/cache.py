"""The cache that all stacks of a user share: what was fetched or built once."""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from devstack.errors import StackError

_POLL_SECONDS = 0.2


@asynccontextmanager
async def locked(cache_dir: Path, name: str) -> AsyncIterator[None]:
    """Hold `name` of the cache; other processes that want it wait meanwhile.

    Raises StackError when the cache cannot be written to.
    """
    descriptor = _open_lock(cache_dir, name)
    try:
        while not _try_lock(descriptor):  # noqa: ASYNC110 - the holder may be another process
            await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


async def built_once(cache_dir: Path, name: str, build: Callable[[Path], Awaitable[None]]) -> Path:
    """The folder `name` of the cache; if it is missing, `build` fills it (all of it or nothing)."""
    folder = cache_dir / name
    if _exists(folder):
        return folder
    async with locked(cache_dir, name):
        if not _exists(folder):
            work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir))
            try:
                await build(work)
                _publish(work, folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def _publish(work: Path, folder: Path) -> None:
    work.chmod(0o755)  # mkdtemp's is 700, and the programs in it may run as another user
    work.rename(folder)


def _exists(folder: Path) -> bool:
    return folder.exists()


def _open_lock(cache_dir: Path, name: str) -> int:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        return os.open(cache_dir / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StackError(
            f"cannot write to the cache {cache_dir} ({error.strerror}): "
            "set RQ_CACHE_DIR to a folder that you may write to"
        ) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
