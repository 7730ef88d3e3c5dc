"""How many plans are made at a time, however many ask."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from quota import cleanup
from quota.cleanup import PLANS_AT_ONCE, Cleaner
from quota.metrics import QuotaMetrics
from quota.snapshot import Incoming


async def test_who_asks_for_plans_at_once_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `read` alone anybody may ask for a plan, again and again, of a workspace of any size."""
    working = most = 0

    class Job:
        def __init__(self, *_given: object) -> None:
            pass

        async def plan(self, _seconds: float = 0.0) -> tuple[None, None]:
            nonlocal working, most
            working += 1
            most = max(most, working)
            await asyncio.sleep(0)
            working -= 1
            return None, None

        plan_asked = plan

    monkeypatch.setattr(cleanup, "Job", Job)
    nothing = cast("Any", None)
    cleaner = Cleaner(
        pool=nothing,
        recorder=nothing,
        client=nothing,
        clock=lambda: datetime.now(UTC),
        owner="test",
        metrics=QuotaMetrics(),
    )
    asked = [cleaner.plan("acme", Incoming()) for _ in range(50)]
    asked_first = [cleaner.plan_asked("acme", Incoming(), seconds=1.0) for _ in range(50)]
    answers = await asyncio.gather(*asked, *asked_first)
    assert len(answers) == 100
    assert most == PLANS_AT_ONCE
