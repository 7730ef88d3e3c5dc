"""Reading a delivery's body within bounds of size, time and memory."""

import asyncio
from typing import Final

import msgspec
from aiohttp import StreamReader
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from webhook_receiver.in_flight import InFlight
from webhook_receiver.messages import EXCERPT_BYTES

READ_TIMEOUT: Final = 10.0
"""Seconds that a body may take to arrive: registries give up after one."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds on a body: bytes that are kept, bytes that are read at all, seconds for all of it."""

    max_bytes: int
    drain_bytes: int
    read_timeout: float = READ_TIMEOUT


class Body(msgspec.Struct, frozen=True):
    """What arrived.

    `data` is all of it, or its first 64 KiB when it is `too_large` (more than `max_bytes`).
    `seen` bytes arrived; `ended` is False when reading stopped before the body did. `charged` bytes
    are counted as in flight, for the caller to give back.
    """

    data: bytes
    seen: int
    charged: int
    too_large: bool = False
    ended: bool = True


class BodyTimeout(Exception):  # noqa: N818 - names what happened
    """The body did not arrive in time."""


class Incomplete(Exception):  # noqa: N818 - names what happened
    """The client went away, or stopped speaking HTTP, before its body was complete."""


class Overloaded(Exception):  # noqa: N818 - names what happened
    """Too many bytes are in flight already."""


async def read_body(
    content: StreamReader, *, declared: int | None, limits: Limits, in_flight: InFlight
) -> Body:
    """Read a body to its end, or until it passes `limits.drain_bytes`.

    `declared` is its Content-Length, where it has one. Never holds more than `limits.max_bytes`.

    Raises:
        BodyTimeout, Incomplete, Overloaded: nothing is charged then.
    """
    arrived = content.is_eof() and content.exception() is None
    if arrived and content.total_bytes <= limits.max_bytes:
        # The usual case: all of it came with its headers.
        data = content.read_nowait(-1)
        if not in_flight.take(len(data)):
            raise Overloaded
        return Body(data, len(data), len(data))
    too_large = declared is not None and declared > limits.max_bytes
    reading = _Reading(limits, in_flight, too_large=too_large)
    try:
        return await _read(content, reading, limits)
    except BaseException:
        reading.drop()
        raise


async def _read(content: StreamReader, reading: "_Reading", limits: Limits) -> Body:
    try:
        async with asyncio.timeout(limits.read_timeout):
            while chunk := await content.readany():
                if not reading.add(chunk):
                    return reading.result(ended=False)
    except TimeoutError:
        # What is too large is not read any further to be understood: it can be answered as it is.
        if reading.too_large:
            return reading.result(ended=False)
        raise BodyTimeout from None
    # A connection that was lost before reading began is a RuntimeError.
    except (OSError, RuntimeError, HttpProcessingError, RequestPayloadError) as error:
        raise Incomplete from error
    return reading.result()


class _Reading:
    """A body as far as it arrived."""

    def __init__(self, limits: Limits, in_flight: InFlight, *, too_large: bool) -> None:
        self.too_large = too_large
        self._limits = limits
        self._in_flight = in_flight
        self._data = bytearray()
        self._seen = 0
        self._charged = 0

    def add(self, chunk: bytes) -> bool:
        """Take the next bytes in; False when enough was seen. Raises Overloaded."""
        self._seen += len(chunk)
        if not self.too_large and self._seen > self._limits.max_bytes:
            self.too_large = True
            del self._data[EXCERPT_BYTES:]
        if self.too_large:
            chunk = chunk[: max(0, EXCERPT_BYTES - len(self._data))]
        growth = len(self._data) + len(chunk) - self._charged
        if growth > 0 and not self._in_flight.take(growth):
            raise Overloaded
        if growth < 0:
            self._in_flight.give_back(-growth)
        self._charged += growth
        self._data += chunk
        return self._seen <= self._limits.drain_bytes

    def result(self, *, ended: bool = True) -> Body:
        """What arrived."""
        return Body(
            bytes(self._data),
            self._seen,
            self._charged,
            too_large=self.too_large,
            ended=ended,
        )

    def drop(self) -> None:
        """Forget what arrived."""
        self._in_flight.give_back(self._charged)
        self._charged = 0
        self._data.clear()
