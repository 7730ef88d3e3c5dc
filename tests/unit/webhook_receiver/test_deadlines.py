import asyncio
from typing import Any

import pytest

from webhook_receiver.deadlines import Deadlines


def futures(count: int) -> list[asyncio.Future[Any]]:
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


def waiting(deadlines: Deadlines, some: list[asyncio.Future[Any]], after: float) -> Any:
    loop = asyncio.get_running_loop()
    return asyncio.ensure_future(deadlines.all_done(some, loop.time() + after))


async def test_it_ends_when_the_last_one_is_done():
    deadlines = Deadlines(asyncio.get_running_loop())
    first, second = some = futures(2)
    wait = waiting(deadlines, some, 60)
    second.set_exception(ValueError("also an end"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not wait.done()
    first.set_result(None)
    await wait
    assert isinstance(second.exception(), ValueError)


async def test_futures_that_are_done_already():
    (done,) = futures(1)
    done.set_result(None)
    await waiting(Deadlines(asyncio.get_running_loop()), [done], 60)


async def test_the_deadline_cancels_nothing():
    (never,) = futures(1)
    with pytest.raises(TimeoutError):
        await waiting(Deadlines(asyncio.get_running_loop()), [never], 0.01)
    assert not never.done()
    never.set_result(None)


async def test_everybody_is_woken_at_their_own_deadline():
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    started = loop.time()
    ends = [0.02, 0.04, 0.06, 0.06, 0.2]
    waits = [waiting(deadlines, futures(1), end) for end in ends]
    for wait, end in zip(waits, ends, strict=True):
        with pytest.raises(TimeoutError):
            await wait
        assert loop.time() - started >= end
    assert loop.time() - started < 5
    # Nothing is left behind, and it works again.
    assert (len(deadlines._waiters), deadlines._timer) == (0, None)
    with pytest.raises(TimeoutError):
        await waiting(deadlines, futures(1), 0.01)


async def test_who_was_held_up_is_woken_at_their_own_earlier_deadline():
    deadlines = Deadlines(asyncio.get_running_loop())
    later = waiting(deadlines, futures(1), 60)
    await asyncio.sleep(0)
    early = [waiting(deadlines, futures(1), after) for after in (0.02, 0.01)]
    await asyncio.wait(early, timeout=5)
    assert [type(wait.exception()) for wait in early if wait.done()] == [TimeoutError] * 2
    assert not later.done()
    # A timer that was set for somebody who is done is not what the next one waits for.
    later.cancel()
    await asyncio.wait([later])
    next_one = waiting(deadlines, futures(1), 0.01)
    await asyncio.wait([next_one], timeout=5)
    assert next_one.done()
    assert isinstance(next_one.exception(), TimeoutError)


async def test_cancelling_one_wait_leaves_the_others():
    deadlines = Deadlines(asyncio.get_running_loop())
    (one,), (other,) = futures(1), futures(1)
    first, second = waiting(deadlines, [one], 60), waiting(deadlines, [other], 60)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    other.set_result(None)
    await second
    assert not one.done()


async def test_those_that_are_done_are_not_kept():
    deadlines = Deadlines(asyncio.get_running_loop())
    for _ in range(100):
        (future,) = futures(1)
        future.set_result(None)
        await waiting(deadlines, [future], 60)
    assert len(deadlines._waiters) <= 1
