import asyncio
from collections.abc import Sequence

import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from prometheus_client import generate_latest

from registry.workspaces import WorkspaceRule
from tests.support.deliveries import envelope, event
from webhook_receiver import handlers
from webhook_receiver.auth import Tokens
from webhook_receiver.body import Limits
from webhook_receiver.handlers import Receiver
from webhook_receiver.in_flight import InFlight
from webhook_receiver.messages import Message
from webhook_receiver.metrics import ReceiverMetrics
from webhook_receiver.publisher import KafkaUnavailable


class Store:
    """A destination that keeps what it is given, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.stored: list[Message] = []

    async def publish(self, messages: Sequence[Message], *, patience: float = 0.0) -> list[Message]:
        assert patience >= 0
        if self.error is not None:
            raise self.error
        self.stored += messages
        return list(messages)


class Bench:
    """A receiver in front of a store."""

    def __init__(self, error: Exception | None = None) -> None:
        self.store = Store(error)
        self.in_flight = InFlight(1_000_000)
        self.metrics = ReceiverMetrics(lambda: self.in_flight.bytes)
        self.receiver = Receiver(
            tokens=Tokens({"secret": "edge"}),
            workspaces=WorkspaceRule("^(?P<workspace>[^/]+)/(?P<app>.+)$"),
            destination=self.store,
            in_flight=self.in_flight,
            limits=Limits(100_000, 200_000),
            metrics=self.metrics,
            now_ns=lambda: 1_795_478_779_000_000_000,
        )

    async def post(self, body: bytes, token: str = "secret", **headers: str) -> web.Response:
        loop = asyncio.get_running_loop()
        content = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
        content.feed_data(body)
        content.feed_eof()
        request = make_mocked_request(
            "POST",
            handlers.PATH,
            headers={"Authorization": f"Bearer {token}", **headers},
            payload=content,
        )
        return await self.receiver.notify(request)

    def count(self, sample: str) -> float:
        for line in generate_latest(self.metrics.registry).decode().splitlines():
            if line.startswith(sample + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no {sample}")


async def test_a_delivery_that_is_stored_is_accepted_with_nothing_to_say():
    bench = Bench()
    response = await bench.post(envelope(event()))
    assert (response.status, response.body) == (202, None)
    assert [message.key for message in bench.store.stored] == [b"acme"]
    assert bench.in_flight.bytes == 0


async def test_what_is_stored_is_counted():
    bench = Bench()
    await bench.post(envelope(event(), event(action="pull"), event(action="explode")))
    await bench.post(b"garbage")
    await bench.post(b"garbage", token="wrong")
    assert bench.count('registry_quota_receiver_requests_total{status="202"}') == 2
    assert bench.count('registry_quota_receiver_requests_total{status="401"}') == 1
    assert bench.count('registry_quota_receiver_events_total{action="push"}') == 1
    assert bench.count('registry_quota_receiver_events_total{action="pull"}') == 1
    assert bench.count('registry_quota_receiver_events_total{action="delete"}') == 0
    assert bench.count('registry_quota_receiver_dead_letters_total{reason="bad_event"}') == 1
    assert bench.count('registry_quota_receiver_dead_letters_total{reason="not_an_envelope"}') == 1
    assert bench.count("registry_quota_receiver_acknowledgement_seconds_count") == 2
    assert bench.count('registry_quota_receiver_acknowledgement_seconds_bucket{le="1.0"}') == 2


async def test_no_text_from_outside_is_ever_a_label():
    bench = Bench()
    before = generate_latest(bench.metrics.registry).count(b"{")
    await bench.post(envelope(event(action="evil\n"), event("evil/evil", mediaType="evil")))
    exposition = generate_latest(bench.metrics.registry)
    assert b"evil" not in exposition
    assert exposition.count(b"{") == before


@pytest.mark.parametrize(
    "error", [KafkaUnavailable("away"), RuntimeError("a bug"), MemoryError(), TimeoutError()]
)
async def test_what_is_not_stored_is_to_be_sent_again(error):
    bench = Bench(error)
    response = await bench.post(envelope(event()))
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert bench.in_flight.bytes == 0
    assert bench.count("registry_quota_receiver_acknowledgement_seconds_count") == 0


async def test_a_bug_in_translating_does_not_stop_the_queue(monkeypatch):
    def broken(*_arguments: object) -> list[Message]:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(handlers, "translate", broken)
    bench = Bench()
    response = await bench.post(b"whatever")
    assert response.status == 202
    (dead,) = bench.store.stored
    assert (dead.label, dead.value) == ("untranslatable", b"whatever")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "evil\x7f"])
async def test_a_compressed_body_is_not_unpacked(encoding):
    bench = Bench()
    response = await bench.post(envelope(event()), **{"Content-Encoding": encoding})
    assert response.status == 202
    (dead,) = bench.store.stored
    assert (dead.label, dead.value) == ("content_encoding", bench.store.stored[0].value)
    assert dead.is_dead_letter


@pytest.mark.parametrize("encoding", ["identity", "Identity ", ""])
async def test_the_identity_encoding_is_none(encoding):
    bench = Bench()
    await bench.post(envelope(event()), **{"Content-Encoding": encoding})
    assert [message.label for message in bench.store.stored] == ["push"]


async def test_a_wrong_token_touches_neither_body_nor_store():
    bench = Bench()
    response = await bench.post(envelope(event()), token="wrong")
    assert response.status == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert bench.store.stored == []


async def test_a_delivery_while_too_much_is_in_flight():
    bench = Bench()
    bench.in_flight.take(1_000_000)
    response = await bench.post(b"x")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_a_delivery_taken_as_a_whole_is_stored_and_counted_as_any_other():
    bench = Bench()
    assert await bench.receiver.take(envelope(event(), event(action="explode")), "edge") is None
    assert [message.label for message in bench.store.stored] == ["push", "bad_event"]
    assert bench.in_flight.bytes == 0
    assert bench.count('registry_quota_receiver_requests_total{status="202"}') == 1
    assert bench.count("registry_quota_receiver_acknowledgement_seconds_count") == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [(KafkaUnavailable("away"), "away"), (RuntimeError("a bug"), "internal error")],
)
async def test_a_delivery_taken_as_a_whole_is_to_be_sent_again_when_it_is_not_stored(error, why):
    bench = Bench(error)
    assert await bench.receiver.take(envelope(event()), "edge") == why
    assert bench.in_flight.bytes == 0
    assert bench.count('registry_quota_receiver_requests_total{status="503"}') == 1


async def test_a_delivery_taken_as_a_whole_while_too_much_is_in_flight():
    bench = Bench()
    bench.in_flight.take(1_000_000)
    assert "in flight" in str(await bench.receiver.take(envelope(event()), "edge"))
    assert bench.store.stored == []
    assert bench.in_flight.bytes == 1_000_000
