"""In the background: runs whose process ended are finished, late deletions counted, races repaired."""

from collections.abc import Callable
from datetime import datetime

import asyncpg

from quota.cleanup import Cleaner
from quota.late import LateDeletions
from quota.repair import LOOK_FAR_BACK, Repairer
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE

log = get_logger(__name__)

_SWEEP_SECONDS = 1.0
_FAR_LOOK_SECONDS = 3600.0


class Sweep:
    """Looks now and then until it is asked to stop."""

    def __init__(
        self,
        cleaner: Cleaner,
        late: LateDeletions,
        repairer: Repairer,
        *,
        stopping: Stopping,
        clock: Callable[[], datetime],
    ) -> None:
        self._cleaner = cleaner
        self._late = late
        self._repairer = repairer
        self._stopping = stopping
        self._clock = clock

    async def run(self) -> None:
        """Until the process stops; a database that is away is waited for."""
        looked_far_at: datetime | None = None
        wait = 0.0
        while not await self._stopping.sleep(wait):
            wait = _SWEEP_SECONDS
            try:
                await self._cleaner.take_over_stale()
                await self._late.sweep()
                await self._repairer.sweep()
                now = self._clock()
                if (
                    looked_far_at is None
                    or (now - looked_far_at).total_seconds() >= _FAR_LOOK_SECONDS
                ):
                    await self._repairer.sweep(LOOK_FAR_BACK)
                    looked_far_at = now
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("sweep_interrupted", reason=f"{type(error).__name__}: {error}")
