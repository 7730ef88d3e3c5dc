import asyncio
from collections.abc import Awaitable

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import TransferEncodingError

from tests.support.waiting import wait_until
from webhook_receiver.body import (
    Body,
    BodyTimeout,
    Incomplete,
    Limits,
    Overloaded,
    read_body,
)
from webhook_receiver.in_flight import InFlight
from webhook_receiver.messages import EXCERPT_BYTES

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
    assert body == Body(b"all of it", seen=9, charged=9)
    assert upload.in_flight.bytes == 9


async def test_no_body_at_all():
    upload = Upload()
    upload.content.feed_eof()
    assert await upload.read() == Body(b"", seen=0, charged=0)


@pytest.mark.parametrize("declared", [None, 200_000])
async def test_a_body_in_pieces_up_to_the_limit(declared):
    upload = Upload()
    reading = upload.read(declared=declared)
    await upload.arrives(b"a" * 100_000, b"b", b"c" * 99_999)
    upload.content.feed_eof()
    body = await reading
    assert body.data == b"a" * 100_000 + b"b" + b"c" * 99_999
    assert (body.too_large, body.ended, body.seen) == (False, True, 200_000)
    assert upload.in_flight.bytes == body.charged == 200_000


@pytest.mark.parametrize("declared", [None, 500_000])
async def test_a_body_over_the_limit_is_read_to_its_end_but_not_kept(declared):
    upload = Upload()
    reading = upload.read(declared=declared)
    for _ in range(5):
        await upload.arrives(b"x" * 100_000)
        assert upload.in_flight.bytes <= LIMITS.max_bytes
    upload.content.feed_eof()
    body = await reading
    assert body.data == b"x" * EXCERPT_BYTES
    assert (body.too_large, body.ended, body.seen) == (True, True, 500_000)
    assert upload.in_flight.bytes == body.charged == EXCERPT_BYTES


async def test_a_body_over_the_limit_that_came_at_once():
    upload = Upload()
    upload.content.feed_data(b"x" * 200_001)
    upload.content.feed_eof()
    body = await upload.read(declared=200_001)
    assert (len(body.data), body.too_large, body.seen) == (EXCERPT_BYTES, True, 200_001)
    assert upload.in_flight.bytes == body.charged == EXCERPT_BYTES


async def test_an_excerpt_is_never_more_than_what_came():
    upload = Upload()
    small = Limits(max_bytes=10, drain_bytes=1000)
    reading = upload.read(limits=small)
    await upload.arrives(b"0123456789", b"ab")
    upload.content.feed_eof()
    body = await reading
    assert (body.data, body.too_large) == (b"0123456789ab", True)


async def test_reading_ends_where_draining_ends():
    upload = Upload()
    reading = upload.read(declared=10**12)
    for _ in range(11):
        upload.content.feed_data(b"x" * 100_000)
    body = await reading
    assert (body.too_large, body.ended) == (True, False)
    assert len(body.data) == EXCERPT_BYTES


async def test_a_body_that_takes_too_long():
    upload = Upload()
    reading = upload.read(limits=Limits(200_000, 1_000_000, read_timeout=0.05))
    upload.content.feed_data(b"{")
    with pytest.raises(BodyTimeout):
        await reading
    assert upload.in_flight.bytes == 0


async def test_a_body_over_the_limit_that_takes_too_long_is_known_well_enough():
    upload = Upload()
    reading = upload.read(limits=Limits(10, 1_000_000, read_timeout=0.05))
    upload.content.feed_data(b"0123456789ab")
    body = await reading
    assert (body.data, body.too_large, body.ended) == (b"0123456789ab", True, False)


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
