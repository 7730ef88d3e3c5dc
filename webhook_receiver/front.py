"""The short way in: a delivery that came whole, under a head that is known, passes aiohttp by.

Registries send the same head again and again. aiohttp's parser reads each of them once; when it is that
of a plain delivery by somebody who may deliver, the very same bytes mean the same the next time, and
reading them again, a request, a response and a task each for it would cost more than everything that
is done with the delivery. Whatever else comes goes to aiohttp as it came, the connection with it:
other routes, other tokens, chunks, expectations, bodies in several pieces, pipelines, broken HTTP.
"""

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Final, NamedTuple, Protocol

from aiohttp import HttpVersion11, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage

from webhook_receiver.auth import Tokens

_LONGEST_HEAD: Final = 2048
"""Bytes of a head that is remembered."""

_MOST_HEADS: Final = 2048
"""Heads that are remembered: one for each length of a body."""

_BODY_LIMIT: Final = 64 * 1024
"""Bytes of a body that comes in one piece."""

_END: Final = b"\r\n\r\n"

_UNUSUAL: Final = (hdrs.EXPECT, hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING, hdrs.CONNECTION)


class Head(NamedTuple):
    """What a head says: whose delivery it is (a registry's id), and how many bytes its body has."""

    source: str
    length: int


class Deliveries(Protocol):
    """What becomes of a delivery (`handlers.Receiver`)."""

    async def take(self, data: bytes, source: str) -> str | None:
        """Take a whole body: None when it is stored, else why it has to be sent again."""


class Heads:
    """The heads that are known: those of plain deliveries by somebody who may deliver."""

    def __init__(self, path: str, tokens: Tokens, max_body_bytes: int) -> None:
        self._line = f"POST {path} HTTP/1.1\r\n".encode()
        self._path = path
        self._tokens = tokens
        self._longest_body = min(_BODY_LIMIT, max_body_bytes)
        self._known: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """What a head (with its empty line) says; None when it is for aiohttp.

        A token is compared in constant time when its head is new. A head that is known is found by
        its hash, which a secret of this process enters: near misses are no nearer.
        """
        known = self._known.get(head)
        if known is None and head.startswith(self._line) and len(head) <= _LONGEST_HEAD:
            known = self._learn(head)
            if known is not None:
                if len(self._known) >= _MOST_HEADS:
                    self._known.clear()
                self._known[head] = known
        return known

    def _learn(self, head: bytes) -> Head | None:
        if not head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n"):
            return None  # where it ends must not be a matter of opinion
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False)
        try:
            messages, upgraded, tail = parser.feed_data(head)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded or tail:
            return None
        return self._plain(messages[0][0])

    def _plain(self, message: RawRequestMessage) -> Head | None:
        headers = message.headers
        lengths = headers.getall(hdrs.CONTENT_LENGTH, [])
        if (
            (message.method, message.path, message.version) != ("POST", self._path, HttpVersion11)
            or message.should_close
            or message.chunked
            or message.upgrade
            or message.compression
            or any(name in headers for name in _UNUSUAL)
            or len(lengths) != 1
            or not (lengths[0].isascii() and lengths[0].isdecimal())
        ):
            return None
        source = self._tokens.registry_of(headers.getall(hdrs.AUTHORIZATION, []))
        length = int(lengths[0])
        if source is None or not 0 < length <= self._longest_body:
            return None
        return Head(source, length)


class DeliveryFront:
    """The connections that aiohttp has not been asked for yet."""

    def __init__(self, heads: Heads, deliveries: Deliveries) -> None:
        """To be called in the event loop that will serve."""
        self.heads = heads
        self.deliveries = deliveries
        self.loop = asyncio.get_running_loop()
        self.open: set[Connection] = set()
        self.closing = False
        self._sweep: asyncio.TimerHandle | None = None
        self._date = (0, b"")

    def protocol(
        self, behind: Callable[[], asyncio.Protocol], idle_seconds: float
    ) -> asyncio.Protocol:
        """For a new connection; `behind` makes the one to hand it over to."""
        if self._sweep is None:
            self._sweep = self.loop.call_later(idle_seconds / 2, self._end_idle, idle_seconds)
        return Connection(self, behind)

    async def close(self, drain_seconds: float) -> None:
        """Answer what is open within so many seconds, then end its connections."""
        self.closing = True
        if self._sweep is not None:
            self._sweep.cancel()
        busy = [one.task for one in self.open if one.task is not None]
        for one in list(self.open):
            one.end_when_idle()
        if busy:
            _done, late = await asyncio.wait(busy, timeout=drain_seconds)
            for task in late:
                task.cancel()
        for one in list(self.open):
            one.abort()

    def answer(self, problem: str | None) -> bytes:
        """202, or 503 with the reason, after which the connection ends."""
        now = int(self.loop.time())
        if self._date[0] != now:
            self._date = (now, formatdate(usegmt=True).encode())
        date = self._date[1]
        if problem is None:
            return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nDate: %s\r\n\r\n" % date
        text = problem.encode()
        return (
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nDate: %s\r\n"
            b"Connection: close\r\n\r\n%s"
        ) % (len(text), date, text)

    def _end_idle(self, idle_seconds: float) -> None:
        """End the connections that have said nothing for so long, now and then."""
        before = self.loop.time() - idle_seconds
        for one in list(self.open):
            if one.idle_since < before:
                one.end_when_idle()
        # Also when none is open: one that still shakes hands would be left out.
        self._sweep = self.loop.call_later(idle_seconds / 2, self._end_idle, idle_seconds)


class Connection(asyncio.Protocol):
    """One connection, as long as only plain deliveries come on it."""

    __slots__ = ("_behind", "_early", "_front", "_transport", "idle_since", "task")

    def __init__(self, front: DeliveryFront, behind: Callable[[], asyncio.Protocol]) -> None:
        self.task: asyncio.Task[None] | None = None
        self.idle_since = front.loop.time()
        self._front = front
        self._behind = behind
        self._early = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = transport  # type: ignore[assignment]
        self._front.open.add(self)
        if self._front.closing:
            self.end_when_idle()

    def data_received(self, data: bytes) -> None:
        """A delivery as a whole, or something for aiohttp."""
        if self.task is not None:
            # The next one before this one is answered.
            self._early += data
            if self._transport is not None:
                self._transport.pause_reading()
            return
        end = data.find(_END) + len(_END)
        head = self._front.heads.read(data[:end])
        if head is None or len(data) != end + head.length:
            self._hand_over(data)
            return
        self.task = self._front.loop.create_task(
            self._deliver(self._front.deliveries.take(data[end:], head.source))
        )

    def connection_lost(self, _error: Exception | None) -> None:
        """What is under way is stored all the same."""
        self._transport = None
        if self.task is None:
            self._front.open.discard(self)

    def pause_writing(self) -> None:
        """It sends delivery upon delivery and reads no answer."""
        self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def end_when_idle(self) -> None:
        """End the connection, unless a delivery is under way."""
        if self.task is None and self._transport is not None:
            self._transport.close()

    async def _deliver(self, taking: Awaitable[str | None]) -> None:
        try:
            problem = await taking
        except BaseException:
            self.abort()  # else whoever sent it waits for an answer that does not come
            raise
        finally:
            self.task = None
            self.idle_since = self._front.loop.time()
            if self._transport is None:
                self._front.open.discard(self)
        if self._transport is None:
            return
        self._transport.write(self._front.answer(problem))
        if problem is not None or self._front.closing:
            self._transport.close()
        elif self._early:
            self._transport.resume_reading()
            self._hand_over(self._early)

    def _hand_over(self, data: bytes) -> None:
        """To aiohttp, for good."""
        self._front.open.discard(self)
        transport, self._transport = self._transport, None
        if transport is not None:
            protocol = self._behind()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.data_received(data)
