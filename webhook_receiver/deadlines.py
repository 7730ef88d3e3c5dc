"""One timer for all who wait about equally long."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any


class Deadlines:
    """Waits for futures up to a time that is about the same distance away for everybody.

    What `asyncio.wait` with a timeout does, at a fraction of its cost: every acknowledgement goes
    through here, and arming and cancelling a timer each is a good part of what one costs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: deque[tuple[float, asyncio.Future[None]]] = deque()  # the next first
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    async def all_done(self, futures: Sequence[asyncio.Future[Any]], deadline: float) -> None:
        """Wait until all futures are done; none is ever cancelled.

        `deadline` is in the loop's time: mostly later than those of the calls before, and earlier for
        those who were held up on their way here.

        Raises:
            TimeoutError: the deadline passed first.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        still_open = len(futures)

        def settle(_future: asyncio.Future[Any]) -> None:
            nonlocal still_open
            still_open -= 1
            if still_open == 0 and not waiter.done():
                waiter.set_result(None)

        for future in futures:
            future.add_done_callback(settle)
        self._forget_done()
        place = len(self._waiters)
        while place and self._waiters[place - 1][0] > deadline:
            place -= 1
        self._waiters.insert(place, (deadline, waiter))
        if place == 0:
            self._ring_at(deadline)
        await waiter

    def _ring_at(self, deadline: float) -> None:
        if self._timer is not None:
            if self._rings_at <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._ring)
        self._rings_at = deadline

    def _ring(self) -> None:
        """Wake those whose deadline passed; come back for the next."""
        self._timer = None
        now = self._loop.time()
        while self._waiters and (self._waiters[0][0] <= now or self._waiters[0][1].done()):
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(TimeoutError())
        if self._waiters:
            self._ring_at(self._waiters[0][0])

    def _forget_done(self) -> None:
        while self._waiters and self._waiters[0][1].done():
            self._waiters.popleft()
