import asyncio
from collections.abc import Awaitable

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import TransferEncodingError

from tests.support.waiting import wait_until
from webhook_receiver.body import (
    RECORD_BYTES,
    UNANNOUNCED_BYTES,
    Body,
    BodyTimeout,
    Incomplete,
    Limits,
    Overloaded,
    pieces,
    read_body,
)
from webhook_receiver.in_flight import InFlight

LIMITS = Limits(max_bytes=200_000, drain_bytes=1_000_000, read_timeout=5.0)


class Upload:
    """A body that arrives as the test says."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        protocol = BaseProtocol(loop)
        protocol.connection_made(asyncio.Transport())
        self.content = StreamReader(protocol, 2**24, loop=loop)
        self.in_flight = InFlight(10_000_000)

    def read(self, *, declared: int | None = None, limits: Limits = LIMITS) -> Awaitable[Body]:
        return asyncio.ensure_future(
            read_body(self.content, declared=declared, limits=limits, in_flight=self.in_flight)
        )

    async def arrives(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.content.feed_data(chunk)
            await wait_until(lambda: not self.content._buffer)


async def test_a_body_that_came_with_its_headers():
    upload = Upload()
    upload.content.feed_data(b"all of it")
    upload.content.feed_eof()
    body = await upload.read(declared=9)
    assert body == Body(b"all of it", charged=9)
    assert upload.in_flight.bytes == 9


async def test_no_body_at_all():
    upload = Upload()
    upload.content.feed_eof()
    assert await upload.read() == Body(b"", charged=0)


@pytest.mark.parametrize("declared", [None, 200_000])
async def test_a_body_in_pieces_up_to_the_limit(declared):
    upload = Upload()
    reading = upload.read(declared=declared)
    await upload.arrives(b"a" * 100_000, b"b", b"c" * 99_999)
    upload.content.feed_eof()
    body = await reading
    assert body.data == b"a" * 100_000 + b"b" + b"c" * 99_999
    assert body.whole
    assert upload.in_flight.bytes == body.charged == 200_000


async def test_nothing_is_read_of_a_body_that_is_announced_as_too_long_for_one_piece():
    upload = Upload()
    upload.content.feed_data(b"x" * 1000)
    assert await upload.read(declared=200_001) == Body(b"", charged=0, whole=False)
    assert await upload.content.readany() == b"x" * 1000
    assert upload.in_flight.bytes == 0


async def test_a_body_of_unknown_length_is_read_until_it_is_too_long_for_one_piece():
    upload = Upload()
    reading = upload.read()
    await upload.arrives(b"x" * 100_000, b"y" * 100_000, b"z")
    body = await reading
    assert (len(body.data), body.whole) == (200_001, False)
    assert upload.in_flight.bytes == body.charged == 200_001


def test_what_is_held_whole_never_passes_what_a_record_holds():
    generous = Limits(max_bytes=2**30, drain_bytes=2**30)
    assert generous.in_one_piece(5) == RECORD_BYTES
    assert generous.in_one_piece(None) == UNANNOUNCED_BYTES
    assert Limits(max_bytes=100, drain_bytes=1000).in_one_piece(None) == 100


async def test_what_arrived_first_and_then_the_rest_comes_in_small_pieces():
    upload = Upload()
    upload.content.feed_data(b"c" * 100_000)
    upload.content.feed_eof()
    got = [piece async for piece in pieces(upload.content, b"a" * 100_000, 5)]
    assert b"".join(got) == b"a" * 100_000 + b"c" * 100_000
    assert max(map(len, got)) <= 65_536


async def test_the_time_that_a_piece_takes_to_be_dealt_with_is_not_counted():
    upload = Upload()
    upload.content.feed_data(b"a")
    got = b""
    async for piece in pieces(upload.content, b"", 0.2):
        got += piece
        await asyncio.sleep(0.25)
        if len(got) < 3:
            upload.content.feed_data(b"b")
        else:
            upload.content.feed_eof()
    assert got == b"abb"


async def test_a_rest_that_does_not_come_is_not_waited_for_longer():
    upload = Upload()
    with pytest.raises(BodyTimeout):
        async for _piece in pieces(upload.content, b"begun", 0.05):
            pass


async def test_a_body_that_takes_too_long():
    upload = Upload()
    reading = upload.read(limits=Limits(200_000, 1_000_000, read_timeout=0.05))
    upload.content.feed_data(b"{")
    with pytest.raises(BodyTimeout):
        await reading
    assert upload.in_flight.bytes == 0


async def test_a_client_that_goes_away():
    upload = Upload()
    reading = upload.read(declared=100)
    await upload.arrives(b"half")
    upload.content.set_exception(ConnectionResetError("Connection lost"))
    with pytest.raises(Incomplete):
        await reading
    assert upload.in_flight.bytes == 0


async def test_a_client_that_stops_speaking_http():
    upload = Upload()
    reading = upload.read()
    await upload.arrives(b"half")
    upload.content.set_exception(TransferEncodingError("bad chunk"))
    with pytest.raises(Incomplete):
        await reading
    assert upload.in_flight.bytes == 0


async def test_a_client_that_went_away_before_its_body_was_asked_for():
    upload = Upload()
    upload.content._protocol.connection_lost(None)
    with pytest.raises(Incomplete):
        await upload.read(declared=100)


@pytest.mark.parametrize("at_once", [True, False])
async def test_too_much_in_flight_is_refused_and_forgotten(at_once):
    upload = Upload()
    upload.in_flight = InFlight(1000)
    assert upload.in_flight.take(900)
    if at_once:
        upload.content.feed_data(b"x" * 101)
        upload.content.feed_eof()
    reading = upload.read()
    if not at_once:
        await upload.arrives(b"x" * 100)
        upload.content.feed_data(b"x")
    with pytest.raises(Overloaded):
        await reading
    assert upload.in_flight.bytes == 900


async def test_a_cancelled_reading_is_forgotten():
    upload = Upload()
    reading = asyncio.ensure_future(upload.read())
    await upload.arrives(b"x" * 100)
    assert upload.in_flight.bytes == 100
    reading.cancel()
    await asyncio.wait([reading])
    assert upload.in_flight.bytes == 0
