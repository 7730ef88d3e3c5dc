"""Large work beside the event loop: whoever sends much keeps nobody waiting who sends little.

What takes long is done by few threads, one piece after the other, so that many large inputs at once are
a queue and no crowd. What is small is done at once: a thread would cost more than it.
"""

import asyncio
import contextvars
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, TypeVarTuple

LARGE_BYTES: Final = 64 * 1024
"""From here on JSON is read, checked and written beside the loop: below it takes a millisecond or two."""

_AT_ONCE: Final = 2
_THREADS: Final = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="large")
"""Of their own: looking up a host's name needs those of the loop."""

_SWITCH_SECONDS: Final = 0.001
"""For how long a thread goes on while another one waits for its turn; Python's own 0.005 are felt by a
hook that waits a dozen times."""

Given = TypeVarTuple("Given")
Made = TypeVar("Made")


def share_fairly() -> None:
    """So that the event loop has its turn again soon while threads work; once in a process."""
    sys.setswitchinterval(_SWITCH_SECONDS)


async def aside(size: int, function: Callable[[*Given], Made], *given: *Given) -> Made:
    """What `function` returns; from `LARGE_BYTES` on a thread calls it. `size`: bytes, about."""
    if size < LARGE_BYTES:
        return function(*given)
    context = contextvars.copy_context()

    def called() -> Made:
        return context.run(function, *given)

    return await asyncio.get_running_loop().run_in_executor(_THREADS, called)
