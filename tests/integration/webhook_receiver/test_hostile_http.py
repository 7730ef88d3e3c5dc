"""Clients that do not behave, byte by byte over plain sockets."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from runtime.http import ServingOptions
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from tests.integration.webhook_receiver.conftest import TOKEN, Receiving, StartReceiver
from tests.support.deliveries import envelope, event
from webhook_receiver.messages import EXCERPT_BYTES
from webhook_receiver.wiring import SERVING

pytestmark = pytest.mark.promise("hostile-input")

AUTHORIZED = f"Authorization: Bearer {TOKEN}"


@dataclass
class Wire:
    """A TCP connection to the receiver."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *data: bytes) -> None:
        self.writer.writelines(data)

    def request(self, *headers: str, body: bytes = b"", line: str = "") -> None:
        """Send a request head and, behind it, a body."""
        head = [line or "POST /v1/notifications HTTP/1.1", "Host: receiver", *headers]
        self.send("\r\n".join([*head, "", ""]).encode("latin-1"), body)

    async def status(self) -> int:
        """The next answer's status; its head and body are taken off the wire."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        await self.reader.readexactly(length)
        return int(head.split(b" ", 2)[1])

    async def is_closed(self, within: float) -> bool:
        """Whether the receiver ends the connection in time."""
        try:
            return await asyncio.wait_for(self.reader.read(1), within) == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def wire_to(receiver: Receiving) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


async def test_a_wrong_token_is_refused_before_the_body_comes(receiver: Receiving):
    async with wire_to(receiver) as wire:
        wire.request("Authorization: Bearer wrong", "Content-Length: 10000000")
        started = time.monotonic()
        assert await wire.status() == 401
        assert time.monotonic() - started < 0.5
        # It dribbles on: nobody waits for it.
        wire.send(b"x" * 1000)
        assert await wire.is_closed(within=3)


async def test_a_wrong_token_reads_its_answer_although_it_sends_all_first(receiver: Receiving):
    body = b"x" * 4_000_000
    async with wire_to(receiver) as wire:
        wire.request("Authorization: Bearer wrong", length(body), body=body)
        await wire.writer.drain()
        assert await wire.status() == 401
    assert await receiver.records() == []


async def test_a_wrong_token_is_not_asked_to_continue(receiver: Receiving):
    async with wire_to(receiver) as wire:
        wire.request("Authorization: Bearer wrong", "Expect: 100-continue", "Content-Length: 9")
        assert await wire.status() == 401
    assert 'status="401"} 1.0' in (await receiver.get("/metrics"))[1]


async def test_the_right_token_is_asked_to_continue(receiver: Receiving):
    body = envelope(event())
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Expect: 100-continue", length(body))
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(body)
        assert await wire.status() == 202
    assert len(await receiver.records()) == 1


async def test_an_expectation_that_nobody_knows_is_passed_over(receiver: Receiving):
    body = envelope(event())
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Expect: a-miracle", length(body), body=body)
        assert await wire.status() == 202


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Authorization:"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        ["Authorization: Basic dGVzdC10b2tlbg=="],
        [AUTHORIZED, AUTHORIZED],
        [AUTHORIZED, "Authorization: Bearer wrong"],
        ["Authorization: Bearer wrong", AUTHORIZED],
        [AUTHORIZED + ",wrong"],
        ["Authorization: Bearer \xff\xfe"],
        [f"X-Authorization: Bearer {TOKEN}", f"Cookie: token={TOKEN}"],
    ],
)
async def test_nobody_else_comes_in(receiver: Receiving, headers: list[str]):
    body = envelope(event())
    async with wire_to(receiver) as wire:
        wire.request(*headers, length(body), body=body)
        assert await wire.status() == 401
    assert await receiver.records() == []


@pytest.mark.parametrize("header", ["authorization: bearer", "AUTHORIZATION:   BEARER  "])
async def test_case_and_spaces_do_not_matter(receiver: Receiving, header: str):
    body = envelope(event())
    async with wire_to(receiver) as wire:
        wire.request(f"{header} {TOKEN}", length(body), body=body)
        assert await wire.status() == 202


async def test_slow_bytes_end_after_the_read_time_out(start_receiver: StartReceiver):
    receiver = await start_receiver({"read_timeout": 0.3})
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Content-Length: 1000", body=b'{"events"')
        assert await wire.status() == 408
        assert await wire.is_closed(within=3)
    assert await receiver.records() == []
    assert "registry_quota_receiver_in_flight_bytes 0.0" in (await receiver.get("/metrics"))[1]


async def test_slow_headers_end_when_the_connection_is_idle(start_receiver: StartReceiver):
    receiver = await start_receiver(server=SERVING | ServingOptions(idle_seconds=0.3))
    async with wire_to(receiver) as wire:
        wire.send(b"POST /v1/notifications HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert await wire.is_closed(within=3)


async def test_a_client_that_goes_away_stores_nothing(receiver: Receiving):
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Content-Length: 1000", body=b"x" * 999)
        await wire.writer.drain()
    body = envelope(event())
    assert await receiver.post(body) == 202
    assert [record.topic for record in await receiver.records()] == [NOTIFICATIONS_TOPIC]
    assert "registry_quota_receiver_in_flight_bytes 0.0" in (await receiver.get("/metrics"))[1]


async def test_chunks_are_a_body_too(receiver: Receiving):
    body = envelope(event())
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Transfer-Encoding: chunked")
        for byte in body:
            wire.send(b"1\r\n", bytes([byte]), b"\r\n")
        wire.send(b"0\r\n\r\n")
        assert await wire.status() == 202
    (record,) = await receiver.records()
    assert (record.topic, record.value in body) == (NOTIFICATIONS_TOPIC, True)


async def test_a_broken_chunk_is_not_taken(start_receiver: StartReceiver):
    receiver = await start_receiver({"read_timeout": 0.3})
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n")
        wire.send(b"zz\r\nworld\r\n")
        assert await wire.status() in (400, 408)
        assert await wire.is_closed(within=3)
    assert await receiver.records() == []


async def test_a_body_without_an_end_is_cut_off_and_shown(start_receiver: StartReceiver):
    receiver = await start_receiver(max_body_bytes=100_000, drain_body_bytes=1_000_000)
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Content-Length: 100000000", body=b"y" * 2_000_000)
        assert await wire.status() == 202
        assert await wire.is_closed(within=3)
    (record,) = await receiver.records()
    assert (record.topic, record.value) == (DEAD_LETTER_TOPIC, b"y" * EXCERPT_BYTES)
    assert b"at least" in record.headers["reason"]


async def test_a_bomb_is_not_unpacked(receiver: Receiving):
    bomb = gzip.compress(b"0" * 50_000_000)
    for body, encoding in [
        (bomb, "gzip"),
        (bomb[:-10], "gzip"),
        (gzip.compress(envelope(event())), "gzip"),
        (b"nonsense", "deflate"),
        (b"nonsense", "br"),
        (b"nonsense", "zstd, gzip"),
    ]:
        async with wire_to(receiver) as wire:
            wire.request(AUTHORIZED, length(body), f"Content-Encoding: {encoding}", body=body)
            assert await wire.status() == 202
        (record,) = await receiver.records()
        assert (record.topic, record.value) == (DEAD_LETTER_TOPIC, body)
        assert encoding.encode() in record.headers["reason"]


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -5"],
        ["Content-Length: 5x"],
        ["Content-Length: 99999999999999999999999999"],
        ["Transfer-Encoding: xchunked"],
        ["X-Bad\x00: 1"],
        ["X-Fold: 1\r\n 2"],
        ["no colon"],
        ["X-Long: " + "x" * 100_000],
        [f"X-{number}: 1" for number in range(1000)],
    ],
)
async def test_broken_http_never_gets_through(receiver: Receiving, headers: list[str]):
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, *headers, body=b"0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n")
        assert 400 <= await wire.status() < 500
    assert await receiver.records() == []


@pytest.mark.parametrize(
    "line",
    [
        "GARBAGE",
        "POST /v1/notifications HTTP/9.9",
        "POST http://[/v1/notifications HTTP/1.1",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "PRI * HTTP/2.0",
        "POST " + "/x" * 50_000 + " HTTP/1.1",
    ],
)
async def test_what_is_not_http_is_told_so(receiver: Receiving, line: str):
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, "Content-Length: 0", line=line)
        assert 400 <= await wire.status() < 500
    assert await receiver.records() == []


async def test_several_deliveries_on_one_connection_are_answered_in_turn(receiver: Receiving):
    bodies = [envelope(event()), b"garbage", envelope(event()), envelope(event())]
    async with wire_to(receiver) as wire:
        for body in bodies:
            wire.request(AUTHORIZED, length(body), body=body)
        assert [await wire.status() for _ in bodies] == [202] * 4
    topics = [record.topic for record in await receiver.records()]
    assert sorted(topics) == [NOTIFICATIONS_TOPIC] * 3 + [DEAD_LETTER_TOPIC]


async def test_one_connection_takes_deliveries_of_all_kinds_and_questions(receiver: Receiving):
    """The short way, a body in pieces, then aiohttp's way: in turn, as if there were one."""
    bodies = [envelope(event()) for _ in range(4)]
    async with wire_to(receiver) as wire:
        for body in bodies[:2]:
            wire.request(AUTHORIZED, length(body), body=body)
            assert await wire.status() == 202
        wire.request(AUTHORIZED, length(bodies[2]))
        await wire.writer.drain()
        wire.send(bodies[2])
        assert await wire.status() == 202
        wire.request(line="GET /healthz HTTP/1.1")
        assert await wire.status() == 200
        wire.request(AUTHORIZED, length(bodies[3]), body=bodies[3])
        assert await wire.status() == 202
    assert len(await receiver.records()) == 4
    assert 'requests_total{status="202"} 4.0' in (await receiver.get("/metrics"))[1]


async def test_a_connection_that_never_speaks_ends(start_receiver: StartReceiver):
    receiver = await start_receiver(server=SERVING | ServingOptions(idle_seconds=0.3))
    async with wire_to(receiver) as wire:
        assert await wire.is_closed(within=3)


async def test_an_old_client_is_served(receiver: Receiving):
    body = envelope(event())
    async with wire_to(receiver) as wire:
        wire.request(AUTHORIZED, length(body), body=body, line="POST /v1/notifications HTTP/1.0")
        assert await wire.status() == 202
        assert await wire.is_closed(within=3)


async def test_slow_readers_hold_nobody_up(receiver: Receiving):
    async with wire_to(receiver) as slow, wire_to(receiver) as silent:
        slow.request(AUTHORIZED, "Content-Length: 100000", body=b"{")
        silent.send(b"POST ")
        started = time.monotonic()
        assert await receiver.post(envelope(event())) == 202
        assert time.monotonic() - started < 1
