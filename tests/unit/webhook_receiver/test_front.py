import asyncio
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from tests.support.captures import captures_or_skip
from tests.support.waiting import wait_until
from webhook_receiver.auth import Tokens
from webhook_receiver.front import DeliveryFront, Head, Heads

PATH = "/v1/notifications"
TOKENS = Tokens({"secret": "edge", "other": "far"})
BODY = b'{"events": []}'
AUTHORIZED = "Authorization: Bearer secret"
LENGTH = f"Content-Length: {len(BODY)}"


def head(*headers: str, line: str = f"POST {PATH} HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: receiver", *headers, "", ""]).encode("latin-1")


PLAIN = head(AUTHORIZED, LENGTH)


class Transport:
    """What the front uses of a transport."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = self.aborted = self.paused = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Behind(asyncio.Protocol):
    """What aiohttp is handed."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data


class Store:
    """Takes deliveries when it is let."""

    def __init__(self, problem: str | None = None) -> None:
        self.taken: list[tuple[bytes, str]] = []
        self.problem = problem
        self.may = asyncio.Event()
        self.may.set()

    async def take(self, data: bytes, source: str) -> str | None:
        await self.may.wait()
        self.taken.append((data, source))
        return self.problem


class Bench:
    """A connection to a front."""

    def __init__(self, problem: str | None = None, idle_seconds: float = 60) -> None:
        self.store = Store(problem)
        self.front = DeliveryFront(Heads(PATH, TOKENS, 10_000), self.store)
        self.behind = Behind()
        self.transport = Transport()
        self.connection = self.connect(self.transport, idle_seconds)

    def connect(self, transport: Transport, idle_seconds: float = 60) -> Any:
        connection: Any = self.front.protocol(lambda: self.behind, idle_seconds)
        connection.connection_made(transport)
        return connection

    async def send(self, data: bytes) -> None:
        self.connection.data_received(data)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_a_plain_delivery_passes_aiohttp_by():
    bench = Bench()
    for number in (1, 2, 3):
        await bench.send(PLAIN + BODY)
        assert bench.store.taken == [(BODY, "edge")] * number
    assert bench.transport.written.count(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n") == 3
    assert bench.transport.written.endswith(b"\r\n\r\n")
    assert (bench.transport.protocol, bench.transport.closed) == (None, False)


async def test_each_token_stands_for_its_registry():
    bench = Bench()
    await bench.send(head("authorization:  bearer  other", LENGTH) + BODY)
    assert bench.store.taken == [(BODY, "far")]


async def test_what_is_not_stored_is_to_be_sent_again():
    bench = Bench("Kafka is away")
    await bench.send(PLAIN + BODY)
    assert bench.transport.written.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 1\r\n" in bench.transport.written
    assert bench.transport.written.endswith(b"\r\nConnection: close\r\n\r\nKafka is away")
    assert bench.transport.closed


async def test_who_cannot_be_answered_is_hung_up_on():
    """A registry waits for its answer, and sends nothing else meanwhile."""
    bench = Bench()
    bench.store.may.clear()
    bench.connection.data_received(PLAIN + BODY)
    task = bench.connection.task
    await bench.settle()
    task.cancel()  # as a library does from within
    await asyncio.wait([task])
    assert (bench.transport.aborted, bench.transport.written) == (True, b"")


async def test_what_real_registries_send_takes_the_short_way():
    heads = Heads(PATH, Tokens({"test-secret": "edge"}), 8 * 1024 * 1024)
    seen = 0
    for capture in captures_or_skip():
        for delivery in capture.deliveries():
            lines = [f"{name}: {value}" for name, value in delivery.headers.items()]
            text = "\r\n".join([f"POST {PATH} HTTP/1.1", *lines, "", ""])
            known = heads.read(text.encode())
            assert known == Head("edge", int(delivery.headers["Content-Length"])), text
            seen += 1
    assert seen > 100


@pytest.mark.parametrize(
    "unusual",
    [
        head(LENGTH),
        head("Authorization: Bearer wrong", LENGTH),
        head("Authorization: Basic secret", LENGTH),
        head(AUTHORIZED, AUTHORIZED, LENGTH),
        head(AUTHORIZED),
        head(AUTHORIZED, LENGTH, LENGTH),
        head(AUTHORIZED, "Content-Length: +14"),
        head(AUTHORIZED, "Content-Length: 14, 14"),
        head(AUTHORIZED, "Content-Length: 0"),
        head(AUTHORIZED, "Content-Length: 10001"),
        head(AUTHORIZED, LENGTH, "Transfer-Encoding: chunked"),
        head(AUTHORIZED, LENGTH, "Expect: 100-continue"),
        head(AUTHORIZED, LENGTH, "Content-Encoding: gzip"),
        head(AUTHORIZED, LENGTH, "Content-Encoding: identity"),
        head(AUTHORIZED, LENGTH, "Connection: close"),
        head(AUTHORIZED, LENGTH, "Connection: Upgrade", "Upgrade: websocket"),
        head(AUTHORIZED, LENGTH, "X-Folded: 1\r\n 2"),
        head(AUTHORIZED, LENGTH, "no colon"),
        head(AUTHORIZED, LENGTH, "X: 1\n\nX: 2"),
        head(AUTHORIZED, LENGTH, "X: 1\rX: 2"),
        head(AUTHORIZED, LENGTH, "X: \x00"),
        head(AUTHORIZED, LENGTH, "X: " + "x" * 2048),
        head(AUTHORIZED, LENGTH, line=f"POST {PATH} HTTP/1.0"),
        head(AUTHORIZED, LENGTH, line=f"PUT {PATH} HTTP/1.1"),
        head(AUTHORIZED, LENGTH, line=f"POST {PATH}?x=1 HTTP/1.1"),
        head(AUTHORIZED, LENGTH, line="GET /healthz HTTP/1.1"),
        PLAIN[:-2],
        b"",
        b"\r\n\r\n",
    ],
)
async def test_whatever_else_comes_is_aiohttps(unusual: bytes):
    bench = Bench()
    # Also after plain ones, and it stays with aiohttp.
    await bench.send(PLAIN + BODY)
    await bench.send(unusual + BODY)
    assert bench.transport.protocol is bench.behind
    assert bench.behind.transport is bench.transport
    assert bench.behind.received == unusual + BODY
    assert len(bench.store.taken) == 1
    assert bench.front.open == set()


@pytest.mark.parametrize("cut", [1, 100, len(PLAIN), len(PLAIN) + 1, len(PLAIN + BODY) - 1])
async def test_a_delivery_in_pieces_is_aiohttps(cut: int):
    bench = Bench()
    await bench.send((PLAIN + BODY)[:cut])
    assert bench.behind.received == (PLAIN + BODY)[:cut]
    assert bench.store.taken == []


async def test_more_than_one_at_once_is_aiohttps():
    bench = Bench()
    await bench.send((PLAIN + BODY) * 2)
    assert bench.behind.received == (PLAIN + BODY) * 2
    assert bench.store.taken == []


async def test_the_next_before_the_answer_waits_for_it():
    bench = Bench()
    bench.store.may.clear()
    await bench.send(PLAIN + BODY)
    await bench.send(PLAIN)
    assert bench.transport.paused
    await bench.send(BODY)
    assert bench.behind.received == b""
    bench.store.may.set()
    await bench.settle()
    assert bench.transport.written.count(b" 202 ") == 1
    assert bench.behind.received == PLAIN + BODY
    assert not bench.transport.paused


async def test_a_client_that_left_is_not_answered_but_its_delivery_is_taken():
    bench = Bench()
    bench.store.may.clear()
    await bench.send(PLAIN + BODY)
    bench.connection.connection_lost(None)
    assert bench.front.open == {bench.connection}
    bench.store.may.set()
    await bench.settle()
    assert bench.store.taken == [(BODY, "edge")]
    assert bench.transport.written == b""
    assert bench.front.open == set()


async def test_closing_answers_what_is_open_and_ends_the_rest():
    bench = Bench()
    idle, late = Transport(), Transport()
    bench.connect(idle)
    bench.store.may.clear()
    await bench.send(PLAIN + BODY)
    closing = asyncio.create_task(bench.front.close(60))
    await bench.settle()
    assert idle.closed
    bench.connect(late)
    assert late.closed
    assert not bench.transport.closed
    bench.store.may.set()
    await closing
    assert b" 202 " in bench.transport.written
    assert bench.transport.closed


async def test_closing_does_not_wait_for_ever():
    bench = Bench()
    bench.store.may.clear()
    await bench.send(PLAIN + BODY)
    await bench.front.close(0.01)
    await bench.settle()
    assert bench.transport.aborted
    assert bench.store.taken == []


async def test_a_connection_that_says_nothing_ends():
    bench = Bench(idle_seconds=0.01)
    await wait_until(lambda: bench.transport.closed)
    bench.connection.connection_lost(None)
    assert bench.front.open == set()


async def test_a_connection_that_says_nothing_after_a_long_handshake_ends():
    bench = Bench(idle_seconds=0.01)
    bench.connection.connection_lost(None)
    late: Any = bench.front.protocol(lambda: bench.behind, 0.01)
    await asyncio.sleep(0.03)  # by TLS there is a connection when hands are shaken
    late.connection_made(transport := Transport())
    await wait_until(lambda: transport.closed)
    await bench.front.close(0)


async def test_a_client_that_reads_no_answers_is_cut_off():
    bench = Bench()
    bench.connection.pause_writing()
    assert bench.transport.aborted


async def test_what_is_remembered_is_bounded():
    heads = Heads(PATH, TOKENS, 1_000_000)
    for number in range(5000):
        known = heads.read(head(AUTHORIZED, f"X: {number}", LENGTH))
        assert known == Head("edge", len(BODY))
    for number in range(10):
        assert heads.read(head("Authorization: Bearer wrong", f"X: {number}", LENGTH)) is None
    assert 0 < len(heads._known) <= 2048


NAMES = st.sampled_from(
    ["Authorization", "Content-Length", "Transfer-Encoding", "Connection", "X", "X Y", "", "\tX"]
)
VALUES = st.sampled_from(
    [
        "Bearer secret",
        "bearer other",
        "14",
        "0",
        "chunked",
        "close",
        "",
        "a\r\n b",
        "\n",
        "a\r",
        "1,2",
    ]
)
ENDS = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n\r\n", "\n\n"])


@given(lines=st.lists(st.tuples(NAMES, VALUES, ENDS), max_size=4), space=st.sampled_from(["", " "]))
async def test_what_passes_by_is_what_aiohttp_would_have_read(
    lines: list[tuple[str, str, str]], space: str
):
    text = f"POST {PATH} HTTP/1.1\r\n{AUTHORIZED}\r\n" + "".join(
        f"{name}:{space}{value}{end}" for name, value, end in lines
    )
    data = text.encode() + b"\r\n" + BODY
    end = data.find(b"\r\n\r\n") + 4
    known = Heads(PATH, TOKENS, 10_000).read(data[:end])
    if known is None or len(data) != end + known.length:
        return
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    ((message, content),), upgraded, tail = parser.feed_data(data)
    assert (message.method, message.path, upgraded, tail) == ("POST", PATH, False, b"")
    assert content.is_eof()
    assert content.read_nowait(-1) == data[end:]
    assert TOKENS.registry_of(message.headers.getall("Authorization")) == known.source
