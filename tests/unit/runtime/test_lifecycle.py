"""A process lives as long as all of its parts do; what is cancelled ends."""

import asyncio

import pytest

from runtime.lifecycle import Stopping, background, end


async def part_that_ends(how: BaseException | None) -> Stopping:
    """What a process is asked when one of its parts ends so."""
    stopping = Stopping()

    async def part() -> None:
        if how is not None:
            raise how

    async with background("part", part(), stopping):
        async with asyncio.timeout(2):
            await stopping.wait()
    return stopping


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
    assert (await part_that_ends(how)).reason == reason


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
    cancelled = 0

    async def hard_of_hearing() -> None:
        nonlocal cancelled
        while cancelled < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    task = asyncio.create_task(hard_of_hearing())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end([task])
    assert task.done()


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
