"""Now, by two clocks: one process whose clock is wrong must not forget, expire or delete what is young."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool

log = get_logger(__name__)

MOST_APART: Final = timedelta(seconds=60)
"""Beyond that one of the clocks is wrong."""
_COMPARE_SECONDS = 10.0

NOW = "SELECT clock_timestamp()"


def utc_now() -> datetime:
    """The process's own clock."""
    return datetime.now(UTC)


class ServiceClock:
    """The earlier of this process's clock and Postgres's, as far apart as they were a moment ago. UTC."""

    def __init__(self, pool: Pool, *, own: Callable[[], datetime] = utc_now) -> None:
        self._pool = pool
        self._own = own
        self.ahead = timedelta(0)
        """How far our own clock is ahead of Postgres's; below 0: behind it."""

    def __call__(self) -> datetime:
        """Now."""
        return self._own() - max(self.ahead, timedelta(0))

    async def agrees(self) -> bool:
        """Compare the clocks: whether they are near enough to forget by them.

        Raises one of `runtime.postgres.UNAVAILABLE`.
        """
        async with self._pool.acquire() as connection:
            asked = self._own()
            theirs: datetime = await connection.fetchval(NOW)
            answered = self._own()
        # Within the time of the question nothing is known: it counts as no difference.
        self.ahead = max(asked - theirs, min(answered - theirs, timedelta(0)))
        agrees = abs(self.ahead) <= MOST_APART
        if not agrees:
            log.error(
                "clocks_differ",
                ahead_of_postgres_seconds=round(self.ahead.total_seconds()),
                action="the earlier one counts, and nothing is forgotten: set the clock of this machine, or "
                "of Postgres's",
            )
        return agrees

    async def run(self, stopping: Stopping) -> None:
        """Compare them now and then; a database that is away is waited for."""
        while not await stopping.sleep(_COMPARE_SECONDS):
            try:
                await self.agrees()
            except UNAVAILABLE as error:
                log.debug("clocks_not_compared", reason=f"{type(error).__name__}: {error}")
