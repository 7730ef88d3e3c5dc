"""Process life cycle: start in order, stop in reverse order, on a signal or when a part fails."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from runtime.logs import get_logger

log = get_logger(__name__)

STOP_DEADLINE = 4.0
"""Seconds that a process gives its open work after a stop signal (the whole stack ends within 6)."""


class StoppedError(Exception):
    """The process was asked to end while a part waited for something."""


class Stopping:
    """Tells a process's parts that it is about to end, and why."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""

    def set(self, reason: str) -> None:
        """Ask the process to end; the first reason stays."""
        self.reason = self.reason or reason
        self._event.set()

    def is_set(self) -> bool:
        """Whether the process is about to end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the process is asked to end."""
        await self._event.wait()

    async def sleep(self, seconds: float) -> bool:
        """Wait up to `seconds`; True when the process is asked to end meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
        return self._event.is_set()


@asynccontextmanager
async def background(
    name: str, run: Awaitable[None], stopping: Stopping
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a part beside the others; when it ends by an error the whole process is asked to end."""

    async def guarded() -> None:
        try:
            await run
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("part_failed", part=name)
            stopping.set(f"{name} failed: {error}")
            raise

    task = asyncio.create_task(guarded(), name=name)
    try:
        yield task
    finally:
        _done, pending = await asyncio.wait(
            [task], timeout=STOP_DEADLINE if stopping.is_set() else 0
        )
        if pending:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def run_until_stopped(
    start: Callable[[AsyncExitStack, Stopping], Coroutine[Any, Any, None]],
) -> int:
    """Start a process's parts into an exit stack, wait for SIGINT, SIGTERM or a failed part, close.

    Returns the exit code: 0 after a signal, 1 after a failure.
    """
    stopping = Stopping()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set, signal.Signals(number).name)
    async with AsyncExitStack() as stack:
        # A signal counts while the parts are still being connected, too.
        starting = asyncio.create_task(start(stack, stopping), name="start")
        asked = asyncio.create_task(stopping.wait(), name="stop")
        await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, StoppedError):
            await starting
        await asked
        log.info("stopping", reason=stopping.reason)
    return 0 if stopping.reason.startswith("SIG") else 1
