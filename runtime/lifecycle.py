"""Process life cycle: start in order, stop in reverse order, on a signal or when a part fails."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from runtime.logs import get_logger

log = get_logger(__name__)

STOP_DEADLINE = 4.0
"""Seconds that a process gives its open work after a stop signal (the whole stack ends within 6)."""

_CANCEL_AGAIN = 0.5
"""Seconds after which a task that goes on is cancelled again."""


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


async def end(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel tasks until they have ended: a library may lose a cancellation that comes at a bad moment."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN)
        for task in ended:
            if not task.cancelled():
                task.exception()  # nobody waits for it, and asyncio would complain


@asynccontextmanager
async def background(
    name: str, run: Awaitable[None], stopping: Stopping
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a part beside the others; when it ends before it is asked to, so does the whole process.

    By an error, by returning, or by a CancelledError that nobody asked for, as a library may raise
    when a task of its own was cancelled: a process without one of its parts would look alive.
    """

    async def guarded() -> None:
        task = asyncio.current_task()
        try:
            await run
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            log.exception("part_failed", part=name)
            stopping.set(f"{name} failed: cancelled from within")
        except Exception as error:
            log.exception("part_failed", part=name)
            stopping.set(f"{name} failed: {error}")
            raise
        else:
            if not stopping.is_set():
                log.error("part_failed", part=name, reason="it ended before it was asked to")
                stopping.set(f"{name} failed: it ended before it was asked to")

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
