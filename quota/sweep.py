"""In the background: runs whose process ended are finished, races repaired, old records forgotten."""

from collections.abc import Callable
from datetime import datetime, timedelta

import asyncpg

from ledger import plans, runs
from quota.cleanup import Cleaner
from quota.repair import LOOK_FAR_BACK, Repairer
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool

log = get_logger(__name__)

KEEP_RUNS = timedelta(days=366)
"""The audit of a cleanup is kept for a year, and so is what undo needs."""
KEEP_PLANS = timedelta(days=1)
"""A plan that has expired is kept so long, to say so."""
_SWEEP_SECONDS = 1.0
_FORGET_SECONDS = 3600.0


class Sweep:
    """Looks now and then until it is asked to stop."""

    def __init__(
        self,
        pool: Pool,
        cleaner: Cleaner,
        repairer: Repairer,
        *,
        stopping: Stopping,
        clock: Callable[[], datetime],
    ) -> None:
        self._pool = pool
        self._cleaner = cleaner
        self._repairer = repairer
        self._stopping = stopping
        self._clock = clock

    async def run(self) -> None:
        """Until the process stops; a database that is away is waited for."""
        forgotten_at: datetime | None = None
        wait = 0.0
        while not await self._stopping.sleep(wait):
            wait = _SWEEP_SECONDS
            try:
                await self._cleaner.take_over_stale()
                await self._repairer.sweep()
                now = self._clock()
                if forgotten_at is None or (now - forgotten_at).total_seconds() >= _FORGET_SECONDS:
                    await self._repairer.sweep(LOOK_FAR_BACK)
                    await self.forget_old()
                    forgotten_at = now
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("sweep_interrupted", reason=f"{type(error).__name__}: {error}")

    async def forget_old(self) -> None:
        """Forget runs after a year and plans that nobody can carry out any more."""
        now = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            await runs.forget_old(connection, now - KEEP_RUNS)
            await plans.forget_old(connection, now - KEEP_PLANS)
