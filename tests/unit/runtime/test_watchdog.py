"""What stalls is noticed while there is work, and only then."""

import asyncio
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.lifecycle import EXIT_CODE, Stopping
from runtime.watchdog import Stalls, Watchdog, whereabouts


def test_what_does_not_move_for_long_enough_is_told_with_its_place_and_time():
    stalls = Stalls(after=10)
    assert stalls.look({"a": 1, "b": 1}, 0) is None
    assert stalls.look({"a": 2, "b": 1}, 9) is None
    assert stalls.look({"a": 2, "b": 1}, 10) == "b has stood at 1 for 10 s"


def test_what_had_nothing_to_do_meanwhile_begins_anew():
    stalls = Stalls(after=10)
    stalls.look({"a": 1}, 0)
    stalls.look({}, 5)
    assert stalls.look({"a": 1}, 11) is None
    assert stalls.look({"a": 1}, 21) is not None


@given(
    steps=st.lists(
        st.tuples(st.floats(0.1, 9.9), st.dictionaries(st.sampled_from("abc"), st.just(0))),
        max_size=20,
    )
)
def test_what_moves_at_every_look_never_stalls(steps):
    stalls, now = Stalls(after=10), 0.0
    for number, (pause, waiting) in enumerate(steps):
        now += pause
        assert stalls.look(dict.fromkeys(waiting, number), now) is None


async def test_a_stalled_part_ends_its_process_with_reason_and_whereabouts():
    stopping = Stopping()
    watchdog = Watchdog(after=0.2, stopping=stopping, die=print)

    async def stands():
        return {"partition 3": "offset 7"}

    async def for_ever():
        await asyncio.Event().wait()

    stuck = asyncio.create_task(for_ever(), name="consumer")
    watchdog.watch("consumer", stands)
    async with watchdog.running(), asyncio.timeout(10):
        await stopping.wait()
    stuck.cancel()
    assert stopping.reason.startswith("consumer stalled: partition 3 has stood at offset 7 for")
    assert "locks.py" in stopping.reason


async def test_what_cannot_be_known_is_no_stall():
    stopping = Stopping()
    watchdog = Watchdog(after=0.2, stopping=stopping, die=print)
    asked, looks = asyncio.Event(), itertools.count()

    async def away():
        if next(looks) > 8:
            asked.set()
        raise OSError("the database is away")

    watchdog.watch("consumer", away)
    async with watchdog.running(), asyncio.timeout(10):
        await asked.wait()
    assert not stopping.is_set()


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()])
async def test_a_look_that_fails_is_not_the_last(error: BaseException):
    """Also where a library cancelled it from within: nobody would see what stalls later."""
    stopping, looks = Stopping(), itertools.count()

    async def fails_once():
        if next(looks) == 0:
            raise error
        return {"partition 3": "offset 7"}

    watchdog = Watchdog(after=0.2, stopping=stopping, die=print)
    watchdog.watch("consumer", fails_once)
    async with watchdog.running(), asyncio.timeout(10):
        await stopping.wait()
    assert stopping.reason.startswith("consumer stalled")


async def test_a_look_that_hangs_ends_by_itself():
    watchdog = Watchdog(after=5, stopping=Stopping(), look_seconds=0.1)

    async def hangs():
        await asyncio.Event().wait()

    watchdog.watch("consumer", hangs)
    async with asyncio.timeout(10):
        assert await watchdog.look() is None


async def test_a_blocked_event_loop_ends_the_process_at_once():
    ended = threading.Event()
    codes: list[int] = []

    def die(code: int) -> None:
        codes.append(code)
        ended.set()

    async with Watchdog(after=0.2, stopping=Stopping(), die=die).running():
        await asyncio.sleep(0)
        assert ended.wait(10), "this thread is the event loop's: it is blocked"
    assert codes[0] == EXIT_CODE


async def test_a_process_that_was_frozen_as_a_whole_is_not_stalled():
    now = 0.0
    watchdog = Watchdog(after=40, stopping=Stopping(), monotonic=lambda: now)

    async def stands():
        return {"partition 3": "offset 7"}

    watchdog.watch("consumer", stands)
    assert await watchdog.look() is None
    now += 3600
    assert await watchdog.look() is None
    for _ in range(4):
        now += 10
        reason = await watchdog.look()
    assert reason is not None


async def test_without_a_limit_nothing_is_watched():
    before = threading.active_count()
    async with Watchdog(after=0, stopping=Stopping()).running():
        assert threading.active_count() == before


async def test_whereabouts_of_nobody_are_none():
    assert whereabouts("nobody") is None
