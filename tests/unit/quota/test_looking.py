"""Work on many items at once ends as one."""

import asyncio

import pytest

from quota.looking import each
from registry.errors import RegistryUnavailable


async def test_every_item_has_its_outcome_in_order() -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert await each([3, 1, 2], double) == [(3, 6), (1, 2), (2, 4)]


async def test_of_nothing_nothing_comes() -> None:
    assert await each([], asyncio.sleep) == []


async def test_the_first_error_ends_the_rest_and_is_raised_as_it_is() -> None:
    ended = asyncio.Event()

    async def work(number: int) -> None:
        if number == 1:
            raise RegistryUnavailable("away")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(RegistryUnavailable, match="away"):
        await each([0, 1], work)
    assert ended.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "or nobody could tell a later cancellation from within"


async def test_who_is_cancelled_when_something_fails_is_cancelled() -> None:
    """A group of tasks forgets it: whoever waits for a registry would try again."""

    async def fails_when_cancelled(_number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RegistryUnavailable("away")

    task = asyncio.create_task(each([0, 1], fails_when_cancelled))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
