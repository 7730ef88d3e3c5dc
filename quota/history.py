"""How a workspace's usage went: samples of the ledger as points at even distances."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from ledger import history
from ledger.history import Sample
from ledger.reading import WorkspaceView
from runtime.postgres import Pool

MOST_POINTS = 2000
_FEW_POINTS = 200
_STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86_400, 7 * 86_400)


class Point(msgspec.Struct, frozen=True):
    """Usage and quota in bytes, as they were at a moment (UTC)."""

    at: datetime
    usage_bytes: int
    quota_bytes: int


def points(
    samples: Iterable[Sample], *, start: datetime, end: datetime, step: timedelta
) -> list[Point]:
    """What was so at `start`, `start + step`, …, and at `end`; nothing before the first sample.

    A moment has what the last sample at or before it says. Samples come oldest first.
    """
    waiting = list(samples)
    found: list[Point] = []
    latest: Sample | None = None
    position = 0
    for moment in _moments(start, end, step):
        while position < len(waiting) and waiting[position].at <= moment:
            latest = waiting[position]
            position += 1
        if latest is not None:
            found.append(Point(moment, latest.usage_bytes, latest.quota_bytes))
    return found


def _moments(start: datetime, end: datetime, step: timedelta) -> Iterable[datetime]:
    moment = start
    while moment < end:
        yield moment
        moment += step
    yield end


def usual_step(start: datetime, end: datetime) -> timedelta:
    """A step that gives some two hundred points at most."""
    seconds = (end - start).total_seconds()
    for step in _STEPS:
        if seconds / step <= _FEW_POINTS:
            return timedelta(seconds=step)
    return timedelta(seconds=seconds / _FEW_POINTS)


class History:
    """Reads it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def began(self, view: WorkspaceView) -> datetime | None:
        """From when on there are points; None: there are none."""
        async with self._pool.acquire() as connection:
            return await history.began(connection, view.id)

    async def of(
        self, view: WorkspaceView, *, start: datetime, end: datetime, step: timedelta
    ) -> list[Point]:
        """A workspace's points."""
        async with self._pool.acquire() as connection:
            samples = await history.samples(connection, view.id, start=start, end=end, step=step)
        return points(samples, start=start, end=end, step=step)
