"""Waiting for what a process needs: parts start in any order, and come back in any order."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiokafka.errors import KafkaError

from runtime.lifecycle import StoppedError, Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE
from runtime.tls import advice

log = get_logger(__name__)

T = TypeVar("T")

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0
"""Seconds between two attempts."""


async def until_it_answers(
    what: str, connect: Callable[[], Awaitable[T]], stopping: Stopping, *, check: str
) -> T:
    """Try until `connect` succeeds; every failure is one line that names `what` and what to check.

    Raises StoppedError when the process is asked to end meanwhile; other errors pass.
    """
    wait = _FIRST_WAIT
    while True:
        try:
            return await connect()
        except (*UNAVAILABLE, KafkaError) as error:
            log.warning(
                "waiting",
                what=what,
                reason=f"{type(error).__name__}: {error}",
                check=advice(error) or check,
                retry_in_seconds=wait,
            )
        if await stopping.sleep(wait):
            raise StoppedError(what)
        wait = min(wait * 2, _LONGEST_WAIT)
