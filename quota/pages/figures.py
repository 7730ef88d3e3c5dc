"""Figures that need all of a workspace: worked out beside the requests, shown with their own time.

A page waits a moment for them and is sent without them when that is not enough; what was worked out
before is shown as long as working it out anew would cost more than it is worth.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from runtime.lifecycle import end
from runtime.logs import get_logger

log = get_logger(__name__)

Value = TypeVar("Value")

WAIT_SECONDS = 0.25
"""How long a page waits for figures that it can be sent without."""
_RENEW_AFTER = 20
"""A figure may be older than the account by this many times what working it out takes."""
_KEPT = 16


class Known(msgspec.Struct, Generic[Value]):
    """A figure and when it was true (UTC)."""

    value: Value
    as_of: datetime
    state: object
    cost_seconds: float


class Figures(Generic[Value]):
    """Works out one kind of figure per workspace, and keeps the newest."""

    def __init__(
        self,
        name: str,
        work_out: Callable[[str, int], Awaitable[Value]],
        *,
        clock: Callable[[], datetime],
        one_at_a_time: asyncio.Semaphore,
    ) -> None:
        """`work_out` takes a workspace's name and id; kinds may share `one_at_a_time`."""
        self._name = name
        self._work_out = work_out
        self._clock = clock
        self._known: OrderedDict[int, Known[Value]] = OrderedDict()
        self._working: dict[int, asyncio.Task[None]] = {}
        self._one_at_a_time = one_at_a_time

    async def of(
        self, name: str, workspace_id: int, state: object, *, wait: float = WAIT_SECONDS
    ) -> Known[Value] | None:
        """The figure of a workspace in a state (anything that changes with it); None: not worked out yet."""
        known = self._known.get(workspace_id)
        if known is not None and (
            known.state == state
            or (self._clock() - known.as_of).total_seconds() < _good_for(known.cost_seconds)
        ):
            return known
        task = self._working.get(workspace_id)
        if task is None:
            task = asyncio.create_task(
                self._renew(name, workspace_id, state), name=f"figures {self._name}"
            )
            self._working[workspace_id] = task
            task.add_done_callback(lambda _task: self._working.pop(workspace_id, None))
        await asyncio.wait([task], timeout=wait)
        return self._known.get(workspace_id)

    def newer_in(self, known: Known[Value] | None, state: object) -> float | None:
        """Seconds after which to ask again for the figure of a state; None: this is it."""
        if known is None:
            return WAIT_SECONDS
        if known.state == state:
            return None
        age = (self._clock() - known.as_of).total_seconds()
        return max(WAIT_SECONDS, _good_for(known.cost_seconds) - age)

    async def _renew(self, name: str, workspace_id: int, state: object) -> None:
        try:
            async with self._one_at_a_time:
                as_of, started = self._clock(), time.monotonic()
                value = await self._work_out(name, workspace_id)
                cost = time.monotonic() - started
        except Exception as error:  # noqa: BLE001 - a page without a figure is better than no page
            log.warning("figure_failed", figure=self._name, workspace=name, reason=repr(error))
            return
        self._known[workspace_id] = Known(value, as_of, state, cost)
        self._known.move_to_end(workspace_id)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)

    async def close(self) -> None:
        """Stop working."""
        await end(self._working.values())


def _good_for(cost_seconds: float) -> float:
    """Seconds that a figure may be older than the account."""
    return cost_seconds * _RENEW_AFTER
