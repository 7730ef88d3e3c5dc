"""A page never waits long for a figure, and never fails for one."""

import asyncio
from datetime import UTC, datetime, timedelta

from quota.pages.figures import Figures

NOW = datetime(2026, 11, 25, tzinfo=UTC)


class Work:
    """Figures whose working out the test lets go on."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.fails = False
        self.now = NOW
        self.figures: Figures[int] = Figures(
            "test", self._work_out, clock=self._clock, one_at_a_time=asyncio.Semaphore(1)
        )

    def _clock(self) -> datetime:
        # Long enough from one look to the next that working out anew is worth it.
        self.now += timedelta(hours=1)
        return self.now

    async def _work_out(self, _name: str, _workspace_id: int) -> int:
        self.begun += 1
        await self.go.wait()
        if self.fails:
            raise RuntimeError("no")
        return self.begun

    async def look(self, state: object, wait: float = 5.0) -> int | None:
        known = await self.figures.of("acme", 1, state, wait=wait)
        return None if known is None else known.value


async def test_a_page_is_sent_without_a_figure_that_takes_long_and_has_it_later():
    work = Work()
    assert await work.look("a", wait=0) is None
    assert await work.look("a", wait=0.01) is None
    work.go.set()
    assert await work.look("a") == 1
    assert work.begun == 1, "all who look share one working out"


async def test_what_is_known_is_shown_until_the_workspace_changes():
    work = Work()
    work.go.set()
    assert await work.look("a") == 1
    assert await work.look("a") == 1
    assert await work.look("b") == 2


async def test_an_old_figure_is_better_than_none():
    work = Work()
    work.go.set()
    assert await work.look("a") == 1
    work.go.clear()
    assert await work.look("b", wait=0.01) == 1
    work.go.set()
    assert await work.look("b") == 2


async def test_a_figure_that_fails_is_absent_and_tried_again():
    work = Work()
    work.go.set()
    work.fails = True
    assert await work.look("a") is None
    work.fails = False
    assert await work.look("a") == 2


async def test_closing_ends_the_work():
    work = Work()
    assert await work.look("a", wait=0) is None
    await asyncio.sleep(0)
    await work.figures.close()
    assert await work.look("a", wait=0.01) is None
    await work.figures.close()


async def test_what_took_long_is_not_worked_out_at_every_change():
    work = Work()
    work.figures = Figures(
        "test", work._work_out, clock=lambda: NOW, one_at_a_time=asyncio.Semaphore(1)
    )
    work.go.set()
    assert await work.look("a") == 1
    assert await work.look("b") == 1, "no time has passed since"
