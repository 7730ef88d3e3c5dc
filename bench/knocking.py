"""The load of a registry's notifications, as a process of its own: `python -m bench.knocking`.

Bare sockets, so that the load costs little. Closed loop: so many connections, each sends its next event
when the last one was answered, as a registry's endpoint does. Open loop (`--rate`): events leave at
their times whatever is still unanswered, and a latency counts from the time at which the event was
due: one slow answer shows in all that it delays (no coordinated omission).

Prints one JSON object: `answered`, `refused`, `failed`, `seconds`, and latencies in milliseconds.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle

import uvloop

from bench.load import envelope, events
from bench.measuring import percentile

_DISTINCT = 2000
"""Envelopes that are made; more events repeat them with a new id."""


_LAYERS = (1, 1)
"""Of an image: an envelope of about 1.2 KB."""
_TAKEN = (200, 202)


class Exchange(asyncio.Protocol):
    """One connection: sends a request, tells the status of its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = b""
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to send."""
        self._transport, self.open = transport, True  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Part of an answer; it is whole when its body is."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(body) >= length:
            self._received = b""
            self._end(int(head[9:12]))

    def connection_lost(self, _error: Exception | None) -> None:
        """Without an answer it is a failure."""
        self.open = False
        self._end(0)

    def _end(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    async def ask(self, request: bytes) -> int:
        """Status of the answer; 0: the connection ended without one."""
        if self._transport is None:
            return 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()


class Load:
    """What is sent, and what came of it."""

    def __init__(self, ports: Sequence[int], token: str, seed: int, *, keep_alive: bool) -> None:
        self._ports = cycle(ports)
        self._keep_alive = keep_alive
        self._bodies = [envelope(event) for event in events(_DISTINCT, seed=seed, layers=_LAYERS)]
        head = (
            "POST /v1/notifications HTTP/1.1\r\nHost: bench\r\n"
            f"Authorization: Bearer {token}\r\n"
            "Content-Type: application/vnd.docker.distribution.events.v2+json\r\n"
            "Content-Length: "
        )
        self._requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in self._bodies]
        self._next = 0
        self.latencies: list[float] = []
        self.refused = 0
        self.failed = 0

    @property
    def body_bytes(self) -> float:
        """Mean size of an envelope."""
        return sum(map(len, self._bodies)) / len(self._bodies)

    def _request(self) -> bytes:
        self._next += 1
        return self._requests[self._next % len(self._requests)]

    async def _connect(self) -> Exchange:
        loop = asyncio.get_running_loop()
        _transport, exchange = await loop.create_connection(
            Exchange, "127.0.0.1", next(self._ports)
        )
        return exchange

    async def send(self, due: float, exchange: Exchange | None = None) -> Exchange | None:
        """One event; `due` is the time (of perf_counter) from which its latency counts."""
        try:
            if exchange is None or not exchange.open:
                exchange = await self._connect()
            status = await exchange.ask(self._request())
        except OSError:
            status = 0
        if status in _TAKEN:
            self.latencies.append(time.perf_counter() - due)
        elif status:
            self.refused += 1
        else:
            self.failed += 1
        if exchange is not None and not self._keep_alive:
            exchange.close()
            return None
        return exchange

    async def closed(self, connections: int, until: Iterator[bool]) -> None:
        """So many connections, each with one event under way."""

        async def knock() -> None:
            exchange = None
            while next(until):
                exchange = await self.send(time.perf_counter(), exchange)
            if exchange is not None:
                exchange.close()

        await asyncio.gather(*(knock() for _ in range(connections)))

    async def open(self, rate: float, seconds: float) -> None:
        """`rate` events a second on new connections, each at its time."""
        began = time.perf_counter()
        under_way: set[asyncio.Task[Exchange | None]] = set()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.send(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way, timeout=30)


def _for(seconds: float) -> Iterator[bool]:
    until = time.perf_counter() + seconds
    while True:
        yield time.perf_counter() < until


def main() -> None:
    """Send, then print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.knocking")
    parser.add_argument(
        "--ports", type=int, nargs="+", required=True, help="connections take turns"
    )
    parser.add_argument("--token", default="none")
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--rate", type=float, help="events a second: open loop")
    given = parser.parse_args()
    load = Load(given.ports, given.token, given.seed, keep_alive=given.keep_alive)
    uvloop.install()
    began = time.perf_counter()
    if given.rate:
        asyncio.run(load.open(given.rate, given.seconds))
    else:
        asyncio.run(load.closed(given.connections, _for(given.seconds)))
    seconds = time.perf_counter() - began
    times = [one * 1000 for one in load.latencies]
    found = {
        "answered": len(times),
        "refused": load.refused,
        "failed": load.failed,
        "seconds": seconds,
        "events_per_second": len(times) / seconds,
        "body_bytes": load.body_bytes,
    }
    if times:
        found |= {
            "p50_ms": percentile(times, 0.5),
            "p99_ms": percentile(times, 0.99),
            "p999_ms": percentile(times, 0.999),
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
