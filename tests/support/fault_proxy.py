"""A TCP proxy that does what networks do: delays, silence, refusals, cuts, answers that never arrive."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

_CHUNK: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)


class FaultProxy:
    """Passes bytes between whoever connects to `port` and `upstream`, until it is told otherwise.

    What it is told holds at once, for the connections that are open as well as for new ones.
    """

    def __init__(self, upstream: int, port: int = 0, host: str = "127.0.0.1") -> None:
        self.port = port
        self.delay = 0.0
        """Seconds that every chunk waits, each way."""
        self.lost_answers = 0
        """How many answers `lose_answers_to` has kept from their clients."""
        self._upstream = (host, upstream)
        self._host = host
        self._flows = asyncio.Event()
        """Of the connections that are opened from now on."""
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._loses: Callable[[bytes], bool] | None = None
        self._to_lose = 0

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._tasks)

    # What is done to the traffic

    def silence(self) -> None:
        """A black hole: connections open and stay open, and nothing moves (half-open, too)."""
        self._flows.clear()

    def heal(self) -> None:
        """Undo `silence` and `delay`: what waited moves on. What was abandoned is reset."""
        self.delay = 0.0
        for task in self._abandoned:
            task.cancel()
        self._abandoned.clear()
        self._flows.set()

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """A black hole meanwhile."""
        self.silence()
        try:
            yield
        finally:
            self.heal()

    def abandon(self) -> int:
        """Half-open for good: nothing moves any more on what is open now, not even a goodbye.

        Like a network that has lost one end without a word: neither end learns of it. New
        connections work. How many were abandoned; `heal` resets them.
        """
        self._flows.clear()
        self._flows = asyncio.Event()
        self._flows.set()
        self._abandoned |= self._tasks
        return len(self._tasks)

    def cut(self) -> int:
        """Reset every open connection (RST); how many ends that were."""
        ends = list(self._open)
        for writer in ends:
            _reset(writer)
        return len(ends)

    async def refuse(self) -> None:
        """Nobody listens any more, and what was open is reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def listen(self) -> None:
        """Take connections (again) at the same port."""
        self._server = await asyncio.start_server(
            self._accept, self._host, self.port, backlog=512, reuse_address=True
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    def lose_answers_to(self, requests: Callable[[bytes], bool], times: int) -> None:
        """Reset connections after the server's answer to a matching request, instead of it.

        The server has done what it was asked, and the client cannot know: an ambiguous commit.
        `requests` sees what a client sends in one piece; it holds for the next `times` of them.
        """
        self._loses, self._to_lose = requests, times

    # Moving bytes

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            self._abandoned.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flows = self._flows
        await flows.wait()
        there, back = await asyncio.open_connection(*self._upstream)
        self._open.add(back)
        losing = asyncio.Event()
        pumps = [
            asyncio.create_task(self._pump(reader, back, flows, losing, requests=True)),
            asyncio.create_task(self._pump(there, writer, flows, losing, requests=False)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._open.discard(back)
            for end in (writer, back):
                end.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flows: asyncio.Event,
        losing: asyncio.Event,
        *,
        requests: bool,
    ) -> None:
        while chunk := await self._read(reader, flows):
            if self.delay:
                await asyncio.sleep(self.delay)
            await flows.wait()
            if requests and self._to_lose > 0 and self._loses is not None and self._loses(chunk):
                self._to_lose -= 1
                losing.set()
            elif not requests and losing.is_set():
                self.lost_answers += 1
                raise ConnectionResetError("this answer is lost")
            writer.write(chunk)
            await writer.drain()
        await flows.wait()
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()

    async def _read(self, reader: asyncio.StreamReader, flows: asyncio.Event) -> bytes:
        try:
            return await reader.read(_CHUNK)
        except ConnectionError:
            await flows.wait()  # a reset moves no more than anything else
            raise


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(upstream: int, port: int = 0) -> AsyncIterator[FaultProxy]:
    """A proxy before the local port `upstream`, at `port` or a free one."""
    proxy = FaultProxy(upstream, port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.heal()
        await proxy.refuse()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
