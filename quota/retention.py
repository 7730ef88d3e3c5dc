"""How long what happened is remembered: every hour, the rows of each kind that are older go."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import asyncpg

from ledger import history, retention
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool

log = get_logger(__name__)

KEEP_RUNS = timedelta(days=366)
"""The audit of a cleanup is kept for a year, and so is what undo needs."""
KEEP_EXPIRED = timedelta(days=1)
"""Plans and reservations that have expired are kept so long, to say so."""
_HOURLY_AFTER = timedelta(days=7)
"""From then on usage is remembered to the hour."""
_EVERY_SECONDS = 3600.0


class Retention:
    """Forgets in the background. `history` and `events`: how long those are kept."""

    def __init__(
        self,
        pool: Pool,
        *,
        history: timedelta,
        events: timedelta,
        clock: Callable[[], datetime],
        agrees: Callable[[], Awaitable[bool]],
    ) -> None:
        """`agrees`: whether the clock is one to forget by; asked each time."""
        self._pool = pool
        self._clock = clock
        self._agrees = agrees
        self._keep = {
            "quota events": events,
            "usage history": history,
            "cleanup runs": KEEP_RUNS,
            "cleanup plans": KEEP_EXPIRED,
            "reservations": KEEP_EXPIRED,
            "reconciliation passes": history,
            "collections verified": history,
        }

    async def run(self, stopping: Stopping) -> None:
        """Every hour, until the process ends; a database that is away is waited for."""
        while not stopping.is_set():
            try:
                await self.tidy(stopping)
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("not_tidied", reason=f"{type(error).__name__}: {error}")
            await stopping.sleep(_EVERY_SECONDS)

    async def tidy(self, stopping: Stopping | None = None) -> dict[str, int]:
        """Forget all that is old enough; returns how many rows of each kind went. Nothing by a wrong clock."""
        if not await self._agrees():
            return {}
        now = self._clock()
        async with self._pool.acquire() as connection:
            await history.thin(connection, now - _HOURLY_AFTER)
        gone = {}
        for what, keep in self._keep.items():
            gone[what] = await self._forget(retention.RULES[what], now - keep, stopping)
            if gone[what]:
                log.info("forgotten", what=what, rows=gone[what], older_than_days=keep.days)
        return gone

    async def _forget(
        self, rule: retention.Rule, before: datetime, stopping: Stopping | None
    ) -> int:
        total = 0
        while not (stopping and stopping.is_set()):
            async with self._pool.acquire() as connection, connection.transaction():
                gone = await retention.forget_some(connection, rule, before)
            total += gone
            if gone < rule.at_a_time:
                break
        return total
