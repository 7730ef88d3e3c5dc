"""Process life cycle: start in order, stop in reverse order, on a signal or when a part fails."""

import asyncio
import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from runtime.logs import get_logger

log = get_logger(__name__)

STOP_DEADLINE = 4.0
"""Seconds that a process gives its open work after a stop signal (the whole stack ends within 6)."""

LONGEST_END = 3 * STOP_DEADLINE
"""Seconds after which a process that was asked to end is ended as it stands."""

EXIT_CODE = 70
"""Of a process that did not end by itself."""

_CANCEL_AGAIN = 0.5
"""Seconds after which a task that goes on is cancelled again, where it has little to put away."""


class StoppedError(Exception):
    """The process was asked to end while a part waited for something."""


class Stopping:
    """Tells a process's parts that it is about to end, and why."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._since = 0.0
        self.reason = ""

    def set(self, reason: str) -> None:
        """Ask the process to end; the first reason stays."""
        if not self.reason:
            self.reason = reason
            self._since = time.monotonic()
        self._event.set()

    @property
    def left(self) -> float:
        """Seconds that open work has from now on: all of it together, and none unless it was asked to end."""
        if not self._event.is_set():
            return 0.0
        return max(0.0, STOP_DEADLINE - (time.monotonic() - self._since))

    def is_set(self) -> bool:
        """Whether the process is about to end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the process is asked to end."""
        await self._event.wait()

    async def sleep(self, seconds: float) -> bool:
        """Wait up to `seconds`; True when the process is asked to end meanwhile."""
        # Not `asyncio.wait_for`, which loses a cancellation that comes with the event (Python 3.11).
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        return self._event.is_set()


def being_cancelled() -> bool:
    """Whether somebody has asked the running task to end.

    Where not, a CancelledError comes from within: a library had cancelled what it waited for itself.
    Not for tasks in which a TaskGroup may fail: in Python 3.11 that counts for ever as if somebody had.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end(
    tasks: Iterable["asyncio.Future[Any]"], *, putting_away: float = _CANCEL_AGAIN
) -> None:
    """Cancel tasks until they have ended: a library may lose a cancellation that comes at a bad moment.

    `putting_away` is what they get, in seconds, before they are cancelled again in the middle of that.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=putting_away)
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
    asked = False

    async def guarded() -> None:
        try:
            await run
        except asyncio.CancelledError:
            # Not `being_cancelled`, which a TaskGroup that failed in this part would have made true for good.
            if asked:
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
        await asyncio.wait([task], timeout=stopping.left)
        asked = True
        await end([task], putting_away=STOP_DEADLINE)


def end_process(reason: str, *, die: Callable[[int], Any] = os._exit) -> None:
    """End this process as it stands, and tell where each of its threads stands. From any thread."""
    log.critical("stalled", reason=reason, action="ending this process at once")
    faulthandler.dump_traceback(all_threads=True)
    die(EXIT_CODE)


@contextlib.contextmanager
def _bounded(
    seconds: float, stopping: Stopping, die: Callable[[int], Any]
) -> Iterator[Callable[[], None]]:
    """What is yielded begins a time in which this has to be left, or the process is ended.

    By a thread: tasks of asyncio may be what hangs.
    """
    begun, done = threading.Event(), threading.Event()

    def watch() -> None:
        begun.wait()
        if not done.wait(seconds):
            end_process(f"it was asked to end and did not: {stopping.reason}", die=die)

    threading.Thread(target=watch, name="end", daemon=True).start()
    try:
        yield begun.set
    finally:
        done.set()
        begun.set()


async def run_until_stopped(
    start: Callable[[AsyncExitStack, Stopping], Coroutine[Any, Any, None]],
    *,
    longest_end: float = LONGEST_END,
    die: Callable[[int], Any] = os._exit,
) -> int:
    """Start a process's parts into an exit stack, wait for SIGINT, SIGTERM or a failed part, close.

    Returns the exit code: 0 after a signal, 1 after a failure. What has not ended `longest_end` seconds
    after it was asked to is ended by `die`.
    """
    stopping = Stopping()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set, signal.Signals(number).name)
    with _bounded(longest_end, stopping, die) as begin_to_end:
        async with AsyncExitStack() as stack:
            # A signal counts while the parts are still being connected, too.
            starting = asyncio.create_task(start(stack, stopping), name="start")
            asked = asyncio.create_task(stopping.wait(), name="stop")
            asked.add_done_callback(lambda _: begin_to_end())
            try:
                await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    await end([starting])
                if not starting.cancelled():
                    with contextlib.suppress(StoppedError):
                        starting.result()
                elif not stopping.is_set():
                    # Half of it has started: it would look alive.
                    log.error("part_failed", part="start", reason="cancelled from within")
                    stopping.set("start failed: cancelled from within")
                await asked
            finally:
                begin_to_end()
                await end([starting, asked])
            log.info("stopping", reason=stopping.reason)
    return 0 if stopping.reason.startswith("SIG") else 1
