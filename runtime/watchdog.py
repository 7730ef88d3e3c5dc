"""Notices a part that stands still while there is work, and ends its process with a reason.

Whoever supervises processes starts it again: that mends what no error tells (a client that waits for
ever, a group that never finds together, an event loop that something blocks).
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka.errors import KafkaError

from runtime.lifecycle import Stopping, being_cancelled, end, end_process
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE

log = get_logger(__name__)

Standing = Mapping[str, Hashable]
"""Work that waits → how far it is. Nothing waits, or nobody can tell: empty."""

_LOOKS: Final = 4
"""How often one looks in the time after which something counts as stalled."""

_TICKS: Final = 20
"""As often as that for the event loop itself."""


class Stalls:
    """How long each piece of work has stood where it stands. PURE."""

    def __init__(self, after: float) -> None:
        """`after`: seconds from which on it counts as stalled."""
        self._after = after
        self._since: dict[str, tuple[Hashable, float]] = {}

    def look(self, standing: Standing, now: float) -> str | None:
        """A sentence about the first that has not moved for too long, else None."""
        self._since = {
            what: self._since[what]
            if what in self._since and self._since[what][0] == position
            else (position, now)
            for what, position in standing.items()
        }
        for what, (position, since) in self._since.items():
            if now - since >= self._after:
                return f"{what} has stood at {position} for {now - since:.0f} s"
        return None


@dataclass
class _Watched:
    part: str
    standing: Callable[[], Awaitable[Standing]]
    stalls: Stalls


class Watchdog:
    """Looks at the parts of one process until it is asked to stop."""

    def __init__(
        self,
        *,
        after: float,
        stopping: Stopping,
        monotonic: Callable[[], float] = time.monotonic,
        die: Callable[[int], Any] = os._exit,
        look_seconds: float = 10.0,
    ) -> None:
        """`after`: seconds without progress, while there is work, that count as stalled; 0: never.

        `look_seconds`: what one look at one part may take.
        """
        self._after = after
        self._stopping = stopping
        self._monotonic = monotonic
        self._die = die
        self._look_seconds = look_seconds
        self._watched: list[_Watched] = []
        self._watching = 0.0
        """Seconds that were watched: not those in which this process was frozen as a whole."""
        self._looked_at: float | None = None

    def watch(
        self, part: str, standing: Callable[[], Awaitable[Standing]], *, patience: float = 1.0
    ) -> None:
        """Look at a part from outside: `standing` must not depend on what may be stuck itself.

        `patience` is a factor on the time after which it counts as stalled. The task that bears the
        part's name is asked where it stands.
        """
        self._watched.append(_Watched(part, standing, Stalls(self._after * patience)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch meanwhile, the event loop by a thread of its own."""
        if not self._after:
            yield
            return
        ended = threading.Event()
        ticks = _Ticks()
        thread = threading.Thread(
            target=self._watch_loop, args=(ticks, ended), name="watchdog", daemon=True
        )
        thread.start()
        tasks = [
            asyncio.create_task(self._tick(ticks), name="watchdog tick"),
            asyncio.create_task(self._look_around(), name="watchdog"),
        ]
        try:
            yield
        finally:
            await end(tasks)
            ended.set()

    async def look(self) -> str | None:
        """Look at every part once; the reason when one of them is stalled."""
        now = self._monotonic()
        if self._looked_at is not None:
            self._watching += min(now - self._looked_at, 2 * self._after / _LOOKS)
        self._looked_at = now
        for watched in self._watched:
            standing = await self._standing_of(watched)
            if reason := watched.stalls.look(standing, self._watching):
                where = whereabouts(watched.part)
                return f"{watched.part} stalled: {reason}" + (f", in {where}" if where else "")
        return None

    async def _standing_of(self, watched: _Watched) -> Standing:
        try:
            async with asyncio.timeout(self._look_seconds):
                return await watched.standing()
        except (*UNAVAILABLE, KafkaError) as error:
            # What it needs is away: no reason to end, and no knowledge.
            log.debug("watchdog_sees_nothing", part=watched.part, reason=repr(error))
        except (Exception, asyncio.CancelledError) as error:
            # Nothing else would ever tell of a part that stalls later.
            if being_cancelled():
                raise
            log.warning("watchdog_sees_nothing", part=watched.part, reason=repr(error))
        return {}

    async def _look_around(self) -> None:
        while not await self._stopping.sleep(self._after / _LOOKS):
            if reason := await self.look():
                log.error("stalled", reason=reason, action="ending this process")
                self._stopping.set(reason)

    async def _tick(self, ticks: "_Ticks") -> None:
        while True:
            ticks.count += 1
            await asyncio.sleep(self._after / _TICKS / 2)

    def _watch_loop(self, ticks: "_Ticks", ended: threading.Event) -> None:
        """In a thread. Counts its own steps: a process that was frozen as a whole is not stalled."""
        seen, still = -1, 0
        step = self._after / _TICKS
        while not ended.wait(step):
            seen, still = ticks.count, (still + 1 if ticks.count == seen else 0)
            if still >= _TICKS:
                end_process(f"the event loop has been blocked for {self._after:g} s", die=self._die)


@dataclass
class _Ticks:
    count: int = 0


def whereabouts(task_name: str) -> str | None:
    """`file:line` at which a task of this name waits; None when there is none."""
    for task in asyncio.all_tasks():
        if task.get_name() != task_name:
            continue
        coroutine: Any = task.get_coro()
        while hasattr(getattr(coroutine, "cr_await", None), "cr_await"):
            coroutine = coroutine.cr_await
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            code = frame.f_code
            return f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})"
    return None
