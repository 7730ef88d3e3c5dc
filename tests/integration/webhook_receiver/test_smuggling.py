"""Where a request ends is no matter of opinion: what is framed in two ways is refused, and nothing after it read.

A proxy before the receiver that reads it the other way would otherwise have one caller's bytes begin
another caller's request.
"""

from collections.abc import Sequence

import pytest

from tests.integration.webhook_receiver.conftest import Receiving
from tests.integration.webhook_receiver.test_hostile_http import AUTHORIZED, length, wire_to
from tests.support.deliveries import envelope, event

pytestmark = pytest.mark.promise("hostile-input")

CHUNKED = "Transfer-Encoding: chunked"
FIVE = "Content-Length: 5"

CODINGS = [
    "Transfer-Encoding : chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked\x0b",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: chunked\x00",
    "Transfer-Encoding\x00: chunked",
    'Transfer-Encoding: "chunked"',
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chu\r\n nked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: \xa0chunked",
    "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: chunked\rX: 1",
    "X: 1\rTransfer-Encoding: chunked",
    "X: 1\nTransfer-Encoding: chunked",
]
LENGTHS = [
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 0x5",
    "Content-Length: 5 5",
    "Content-Length: 5, 6",
    "Content-Length: 5,",
    "Content-Length: 5\x00",
    "Content-Length: 5\x0b",
    "Content-Length: 5.0",
    "Content-Length: 5e0",
    "Content-Length: ",
    "Content-Length: \xb2",
    "Content-Length : 5",
    " Content-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 6\r\nContent-Length: 5",
    "Content-Length: 5\rX: 1",
    "X: 1\rContent-Length: 5",
    "Content-Length: 18446744073709551621",
    "Content-Length: 99999999999999999999999999",
]
CHUNKS = [
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
    b"\xb2\r\nhe\r\n0\r\n\r\n",
]


def delivery() -> bytes:
    """A whole request that would be taken, were it read."""
    body = envelope(event())
    head = ["POST /v1/notifications HTTP/1.1", "Host: receiver", AUTHORIZED, length(body)]
    return "\r\n".join([*head, "", ""]).encode() + body


async def taken(receiver: Receiving, *forms: tuple[Sequence[str], bytes]) -> list[str]:
    """Of requests (headers, body) those that are not refused, or behind which something is read."""
    wrongly = []
    for headers, body in forms:
        async with wire_to(receiver) as wire:
            wire.request(AUTHORIZED, *headers, body=body + delivery())
            status = await wire.status()
            if not (400 <= status < 500 and await wire.is_closed(within=3)):
                wrongly.append(f"{headers!r} {body!r}: {status}")
    assert await receiver.records() == []
    return wrongly


async def test_a_coding_beside_a_length_is_refused(receiver: Receiving):
    # A list that ends with chunked is plain enough alone.
    codings = [*CODINGS, CHUNKED, "Transfer-Encoding: identity, chunked"]
    pairs = [pair for coding in codings for pair in ((FIVE, coding), (coding, FIVE))]
    assert await taken(receiver, *((pair, b"0\r\n\r\n") for pair in pairs)) == []


async def test_a_coding_that_is_not_plainly_chunked_is_refused(receiver: Receiving):
    assert await taken(receiver, *(([coding], b"0\r\n\r\n") for coding in CODINGS)) == []


async def test_a_length_that_is_no_plain_number_is_refused(receiver: Receiving):
    assert await taken(receiver, *(([told], b"hello") for told in LENGTHS)) == []


async def test_a_chunk_whose_size_is_no_plain_number_is_refused(receiver: Receiving):
    assert await taken(receiver, *(([CHUNKED], chunks) for chunks in CHUNKS)) == []


async def test_the_delivery_that_hides_behind_them_is_a_good_one(receiver: Receiving):
    """Or none of the above would show anything."""
    async with wire_to(receiver) as wire:
        wire.send(delivery() + delivery())
        assert [await wire.status(), await wire.status()] == [202, 202]
    assert len(await receiver.records()) == 2
