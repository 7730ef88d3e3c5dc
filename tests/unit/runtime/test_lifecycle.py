"""A process lives as long as all of its parts do; what is cancelled ends."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from runtime import lifecycle
from runtime.lifecycle import EXIT_CODE, Stopping, background, end, run_until_stopped


async def reason_of(part: Coroutine[Any, Any, None]) -> str:
    """Why a process is asked to end by one of its parts."""
    stopping = Stopping()
    async with background("part", part, stopping):
        async with asyncio.timeout(2):
            await stopping.wait()
    return stopping.reason


async def hard_of_hearing(times: int) -> None:
    """Loses so many cancellations, as a library may."""
    lost = 0
    while lost < times:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost += 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (ValueError("no"), "part failed: no"),
        (asyncio.CancelledError(), "part failed: cancelled from within"),
        (None, "part failed: it ended before it was asked to"),
    ],
)
async def test_a_part_that_ends_by_itself_ends_the_process(
    how: BaseException | None, reason: str
) -> None:
    """Whichever way: a process without one of its parts would look alive, and do nothing."""

    async def part() -> None:
        if how is not None:
            raise how

    assert await reason_of(part()) == reason


async def test_a_part_that_is_cancelled_from_within_after_tasks_of_its_own_failed_ends_the_process() -> (
    None
):
    """A group of tasks cancels its parent when one fails, and counts that as if somebody else had."""

    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError

    async def part() -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(asyncio.sleep(60))
        raise asyncio.CancelledError

    assert await reason_of(part()) == "part failed: cancelled from within"


async def test_a_part_that_ends_when_asked_to_is_no_failure() -> None:
    stopping = Stopping()

    async def part() -> None:
        await stopping.wait()

    async with background("part", part(), stopping):
        stopping.set("SIGTERM")
    assert stopping.reason == "SIGTERM"


async def test_a_part_that_is_cancelled_from_outside_is_no_failure() -> None:
    """Its process closes because of something else, which is told already."""
    stopping = Stopping()

    async def part() -> None:
        await asyncio.Event().wait()

    async with background("part", part(), stopping):
        await asyncio.sleep(0)
    assert not stopping.is_set()


async def test_what_loses_a_cancellation_is_cancelled_again() -> None:
    task = asyncio.create_task(hard_of_hearing(3))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end([task])
    assert task.done()


async def test_what_has_something_to_put_away_is_left_to_it() -> None:
    cancelled = 0

    async def tidy() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            cancelled += 1
            await asyncio.sleep(0.7)  # longer than others get
            cancelled += 10

    task = asyncio.create_task(tidy())
    await asyncio.sleep(0)
    await end([task], putting_away=5)
    assert (cancelled, task.cancelled()) == (11, True)


async def test_what_fails_on_being_cancelled_is_nobodys_complaint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("already closed")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await end([task])
    del task
    assert "never retrieved" not in caplog.text


async def test_a_part_that_loses_a_cancellation_ends_with_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "STOP_DEADLINE", 0.1)
    began = time.monotonic()
    async with asyncio.timeout(5):
        async with background("part", hard_of_hearing(2), Stopping()):
            await asyncio.sleep(0)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_that_comes_with_the_end_is_not_lost(turns: int) -> None:
    """At whichever turn of the loop: asyncio.wait_for of Python 3.11 loses it at one."""
    stopping = Stopping()
    task = asyncio.create_task(stopping.sleep(60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stopping.set("end of test")
    for _turn in range(turns):
        await asyncio.sleep(0)
    asked = task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() == asked


async def test_a_start_that_is_cancelled_from_within_ends_the_process() -> None:
    async def start(_stack: AsyncExitStack, _stopping: Stopping) -> None:
        raise asyncio.CancelledError

    async with asyncio.timeout(2):
        assert await run_until_stopped(start) == 1


async def test_all_parts_together_have_one_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other a process of eight parts would take half a minute."""
    monkeypatch.setattr(lifecycle, "STOP_DEADLINE", 0.2)

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        for number in range(8):
            part = asyncio.sleep(60)
            await stack.enter_async_context(background(f"part {number}", part, stopping))
        stopping.set("SIGTERM")

    began = time.monotonic()
    assert await run_until_stopped(start) == 0
    assert time.monotonic() - began < 1


async def test_a_process_that_does_not_end_is_ended() -> None:
    """Whatever it hangs at: it would answer nothing, and nobody would start it again."""
    hangs, codes = asyncio.Event(), list[int]()
    loop = asyncio.get_running_loop()

    def die(code: int) -> None:
        codes.append(code)
        loop.call_soon_threadsafe(hangs.set)

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        stack.push_async_callback(hangs.wait)
        stopping.set("a part failed")

    async with asyncio.timeout(5):
        assert await run_until_stopped(start, longest_end=0.1, die=die) == 1
    assert codes == [EXIT_CODE]
