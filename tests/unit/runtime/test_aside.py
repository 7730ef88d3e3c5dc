"""Large work beside the event loop."""

import asyncio
import contextvars
import threading

import pytest

from runtime.aside import LARGE_BYTES, aside

WHO = contextvars.ContextVar[str]("who")


def where():
    return threading.current_thread()


async def test_what_is_small_is_done_at_once_and_what_is_large_by_a_thread():
    assert await aside(LARGE_BYTES - 1, where) is threading.main_thread()
    assert await aside(LARGE_BYTES, where) is not threading.main_thread()


async def test_large_work_stands_in_a_queue_of_few_threads_and_the_loop_goes_on():
    go_on, begun = threading.Event(), []

    def wait():
        begun.append(where())
        assert go_on.wait(30)

    working = [asyncio.create_task(aside(LARGE_BYTES, wait)) for _number in range(20)]
    for _turn in range(50):  # the loop has its turns meanwhile
        await asyncio.sleep(0)
        assert await aside(1, lambda: "small") == "small"
    assert len(begun) <= 2
    go_on.set()
    await asyncio.gather(*working)
    assert len(begun) == 20
    assert len(set(begun)) <= 2


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
async def test_it_returns_raises_and_knows_its_context_as_if_it_had_been_called(size):
    WHO.set("a request")
    assert await aside(size, lambda one, two: (one, two, WHO.get()), 1, 2) == (1, 2, "a request")
    with pytest.raises(ZeroDivisionError):
        await aside(size, lambda: 1 // 0)
