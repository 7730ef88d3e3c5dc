"""Waiting for a condition instead of sleeping for luck."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def wait_until(
    predicate: Callable[[], Awaitable[T]],
    deadline: float = ...,
    *,
    interval: float = ...,
    what: str = ...,
) -> T: ...


@overload
async def wait_until(
    predicate: Callable[[], T], deadline: float = ..., *, interval: float = ..., what: str = ...
) -> T: ...


async def wait_until(
    predicate: Callable[[], Any],
    deadline: float = 10.0,
    *,
    interval: float = 0.02,
    what: str = "",
) -> Any:
    """Ask `predicate` (plain or async) every `interval` seconds; return its first true answer.

    An AssertionError or OSError counts as "not yet". Raises TimeoutError after `deadline` seconds,
    with the last answer or error.
    """
    until = time.monotonic() + deadline
    while True:
        last: object
        try:
            answer = predicate()
            result = await answer if inspect.isawaitable(answer) else answer
            if result:
                return result
            last = result
        except (AssertionError, OSError) as error:
            last = error
        if time.monotonic() > until:
            raise TimeoutError(f"not within {deadline} s: {what or predicate}; last: {last!r}")
        await asyncio.sleep(interval)
