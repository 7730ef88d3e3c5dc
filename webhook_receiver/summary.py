"""A line now and then about what was delivered: one for each delivery would cost as much as itself."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from runtime.logs import get_logger
from webhook_receiver.metrics import ReceiverMetrics

log = get_logger(__name__)

EVERY_SECONDS: Final = 10.0


@asynccontextmanager
async def summing_up(
    metrics: ReceiverMetrics, *, every: float = EVERY_SECONDS
) -> AsyncIterator[None]:
    """Tell every few seconds what was delivered, and the rest at the end; nothing where nothing was."""
    told: Counter[str] = Counter()

    def tell() -> None:
        totals = metrics.totals()
        if grown := totals - told:
            log.info("deliveries", **dict(sorted(grown.items())))
            told.update(grown)

    async def now_and_then() -> None:
        while True:
            await asyncio.sleep(every)
            tell()

    task = asyncio.create_task(now_and_then(), name="summary")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        tell()
