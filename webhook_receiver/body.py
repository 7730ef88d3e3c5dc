"""Reading a delivery's body within bounds of size, time and memory."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from aiohttp import StreamReader
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from webhook_receiver.in_flight import InFlight

READ_TIMEOUT: Final = 10.0
"""Seconds that a body may take to arrive: registries give up after one."""

RECORD_BYTES: Final = 8 * 1024 * 1024
"""The longest event that becomes a record as it is."""

UNANNOUNCED_BYTES: Final = 1024 * 1024
"""Bytes of a body without a Content-Length that are read in one piece."""

_PIECE_BYTES: Final = 64 * 1024


class Limits(msgspec.Struct, frozen=True):
    """Bounds on a body: bytes in one piece, bytes that are read at all, seconds to wait for them."""

    max_bytes: int
    drain_bytes: int
    read_timeout: float = READ_TIMEOUT

    def in_one_piece(self, declared: int | None) -> int:
        """Bytes of a body that may be held whole. `declared` is its Content-Length, if it has one."""
        most = min(self.max_bytes, RECORD_BYTES)
        return most if declared is not None else min(most, UNANNOUNCED_BYTES)


class Body(msgspec.Struct, frozen=True):
    """What arrived: all of it, or (not `whole`) its beginning, and the rest is still to be read.

    `charged` bytes are counted as in flight, for the caller to give back.
    """

    data: bytes
    charged: int
    whole: bool = True


class BodyTimeout(Exception):  # noqa: N818 - names what happened
    """The body did not arrive in time."""


class Incomplete(Exception):  # noqa: N818 - names what happened
    """The client went away, or stopped speaking HTTP, before its body was complete."""


class Overloaded(Exception):  # noqa: N818 - names what happened
    """Too many bytes are in flight already."""


async def read_body(
    content: StreamReader, *, declared: int | None, limits: Limits, in_flight: InFlight
) -> Body:
    """Read a body to its end, or until it passes what may be held whole.

    Nothing is read of one that is announced as longer.

    Raises:
        BodyTimeout, Incomplete, Overloaded: nothing is charged then.
    """
    most = limits.in_one_piece(declared)
    arrived = content.is_eof() and content.exception() is None
    if arrived and content.total_bytes <= most:
        # The usual case: all of it came with its headers.
        data = content.read_nowait(-1)
        _charge(in_flight, len(data))
        return Body(data, len(data))
    if declared is not None and declared > most:
        return Body(b"", 0, whole=False)
    begun = bytearray()
    charged = 0
    try:
        with _said_plainly():
            async with asyncio.timeout(limits.read_timeout):
                while chunk := await content.readany():
                    _charge(in_flight, len(chunk))
                    charged += len(chunk)
                    begun += chunk
                    if len(begun) > most:
                        break
    except BaseException:
        in_flight.give_back(charged)
        raise
    return Body(bytes(begun), charged, whole=len(begun) <= most)


def _charge(in_flight: InFlight, size: int) -> None:
    if not in_flight.take(size):
        raise Overloaded


async def pieces(
    content: StreamReader, first: bytes, seconds: float
) -> AsyncGenerator[bytes, None]:
    """What arrived first and then the rest of a body, some 64 KiB at a time.

    `seconds` may be waited for it altogether; what is done with a piece does not count. Between two
    pieces everybody else has a turn. Raises BodyTimeout, Incomplete.
    """
    clock = asyncio.get_running_loop().time
    chunk = first
    while True:
        for start in range(0, len(chunk), _PIECE_BYTES):
            yield chunk[start : start + _PIECE_BYTES]
            await asyncio.sleep(0)
        asked = clock()
        with _said_plainly():
            async with asyncio.timeout(seconds):
                chunk = await content.readany()
        if not chunk:
            return
        seconds -= clock() - asked


@contextmanager
def _said_plainly() -> Iterator[None]:
    """What goes wrong in reading, in our words."""
    try:
        yield
    except TimeoutError:
        raise BodyTimeout from None
    # A connection that was lost before reading began is a RuntimeError.
    except (OSError, RuntimeError, HttpProcessingError, RequestPayloadError) as error:
        raise Incomplete from error
