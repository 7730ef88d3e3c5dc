"""Deliveries under load, each with an id of its own, and what became of them."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.deliveries import envelope, event
from tests.support.waiting import wait_until

MakeEvent = Callable[[str, int], dict[str, Any]]
"""Makes the event of an id and a number."""


def new_connections() -> aiohttp.ClientSession:
    """A client that opens a connection for every request, as registries do."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the others lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Load:
    """Deliveries, each on a new connection, and what was answered."""

    url: str
    token: str
    padding: int = 0
    make: MakeEvent | None = None
    acknowledged: set[str] = field(default_factory=set)
    answers: Counter[int | str] = field(default_factory=Counter)
    slowest: float = 0.0
    _number: int = 0

    def _event(self, name: str) -> dict[str, Any]:
        if self.make is not None:
            return self.make(name, self._number)
        repository = f"tenant{self._number % 20}/app"
        return event(repository, event_id=name, url="x" * self.padding)

    async def deliver(self, http: aiohttp.ClientSession, prefix: str) -> int | str:
        """One delivery; the status or the name of the error."""
        self._number += 1
        name = f"{prefix}-{self._number}"
        return await self.send(http, name, envelope(self._event(name)))

    async def send(self, http: aiohttp.ClientSession, name: str, body: bytes) -> int | str:
        """One delivery of bytes; the status or the name of the error."""
        started = time.monotonic()
        answer: int | str
        try:
            async with http.post(
                self.url,
                data=io.BytesIO(body),
                headers={"Authorization": f"Bearer {self.token}"},
            ) as response:
                answer = response.status
                self.slowest = max(self.slowest, time.monotonic() - started)
        except (OSError, aiohttp.ClientError) as error:
            answer = type(error).__name__
        if answer == 202:
            self.acknowledged.add(name)
        self.answers[answer] += 1
        return answer

    @asynccontextmanager
    async def running(
        self, prefix: str, workers: int = 8, *, pause: float = 0.0
    ) -> AsyncIterator["Load"]:
        """Deliver meanwhile, as many at once as there are workers; each pauses after each."""
        stop = asyncio.Event()

        async def work(http: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                taken = await self.deliver(http, prefix) == 202
                await asyncio.sleep(pause if taken else 0.02)

        async with new_connections() as http:
            tasks = [asyncio.create_task(work(http)) for _ in range(workers)]
            try:
                yield self
            finally:
                stop.set()
                await asyncio.gather(*tasks)

    async def reaches(self, more: int, *, within: float = 30) -> None:
        """Wait until so many more were acknowledged."""
        goal = len(self.acknowledged) + more
        await wait_until(
            lambda: len(self.acknowledged) >= goal, within, what=f"{more} more accepted"
        )
