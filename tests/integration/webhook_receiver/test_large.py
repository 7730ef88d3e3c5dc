"""Deliveries that are too large for one piece: over `RQ_MAX_BODY_BYTES`, up to 64 MiB."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from tests.integration.webhook_receiver.conftest import StartReceiver
from tests.support.deliveries import DIGEST, envelope, event
from tests.support.load import new_connections
from tests.support.receiver_program import TOKEN, receiver_program
from webhook_receiver.body import RECORD_BYTES
from webhook_receiver.messages import EXCERPT_BYTES
from webhook_receiver.wiring import IN_FLIGHT_BYTES

MIB = 1024 * 1024
PATIENT = 10.0
"""Seconds: how fast Kafka is on a machine that does other things, too, is not what is asked here."""


def large(size: int, repository: str = "acme/large", **target: Any) -> dict[str, Any]:
    """An event of some bytes: a layer has an annotation that Go escapes."""
    layer = {"mediaType": "application/x", "size": 1, "digest": DIGEST}
    layer["annotations"] = {"note": "<" * (size // 6)}
    return event(repository, references=[layer], **target)


def as_sent(*events: dict[str, Any]) -> bytes:
    """A delivery as Go writes it."""
    return json.dumps({"events": events}).replace("<", "\\u003c").encode()


def without_references(one: dict[str, Any]) -> dict[str, Any]:
    target = {name: value for name, value in one["target"].items() if name != "references"}
    return {**one, "target": target}


async def test_an_event_that_is_too_long_is_taken_without_its_references(
    start_receiver: StartReceiver,
):
    receiver = await start_receiver(ack_timeout=PATIENT)
    huge, usual, other = large(12 * MIB), event("acme/web"), event("other/web")
    assert await receiver.post(as_sent(huge, usual, other)) == 202
    records = await receiver.records()
    assert {record.topic for record in records} == {NOTIFICATIONS_TOPIC}
    acme = [record for record in records if record.key == b"acme"]
    assert json.loads(acme[0].value) == without_references(huge)
    others = [json.dumps(usual).encode(), json.dumps(other).encode()]
    assert sorted(record.value for record in records if record not in acme[:1]) == sorted(others)


async def test_an_event_is_as_it_was_sent_up_to_eight_mebibytes_exactly(
    start_receiver: StartReceiver,
):
    receiver = await start_receiver(ack_timeout=PATIENT)
    for over in (0, 1):
        room = RECORD_BYTES + over - len(json.dumps(event("acme/edge", references=[{"a": ""}])))
        one = event("acme/edge", references=[{"a": "x" * room}])
        raw = json.dumps(one).encode()
        assert len(raw) == RECORD_BYTES + over
        assert await receiver.post(b'{"events":[%s]}' % raw) == 202
        records = {record.topic: record for record in await receiver.records()}
        assert json.loads(records[NOTIFICATIONS_TOPIC].value) == (
            one if over == 0 else without_references(one)
        )


async def test_every_event_of_a_large_delivery_is_taken_in_order(start_receiver: StartReceiver):
    receiver = await start_receiver(ack_timeout=PATIENT)
    events = [event("acme/app", url="x" * 3000) for _ in range(6000)]
    body = envelope(*events)
    assert len(body) > 20 * MIB
    assert await receiver.post(body) == 202
    stored = [json.loads(record.value)["id"] for record in await receiver.records()]
    assert stored == [one["id"] for one in events]


@pytest.mark.parametrize("chunked", [False, True])
async def test_up_to_64_mebibytes_are_read_and_beyond_them_nothing(
    start_receiver: StartReceiver, chunked: bool
):
    receiver = await start_receiver(ack_timeout=PATIENT)
    body = as_sent(event())
    body += b" " * (64 * MIB - len(body))

    async def chunks(whole: bytes) -> AsyncIterator[bytes]:
        yield whole

    async def post(whole: bytes) -> int:
        if not chunked:
            return await receiver.post(whole)
        url = f"http://127.0.0.1:{receiver.port}/v1/notifications"
        headers = {"Authorization": "Bearer test-token"}
        async with receiver.http.post(url, data=chunks(whole), headers=headers) as answer:
            return answer.status

    assert await post(body) == 202
    (record,) = await receiver.records()
    assert record.topic == NOTIFICATIONS_TOPIC
    assert await post(body + b" ") == 202
    (dead,) = [one for one in await receiver.records() if one.topic == DEAD_LETTER_TOPIC]
    assert dead.value == body[:EXCERPT_BYTES]
    assert b"at most 67108864" in dead.headers["reason"]


async def test_what_cannot_be_read_is_a_dead_letter_behind_what_could(
    start_receiver: StartReceiver,
):
    receiver = await start_receiver(max_body_bytes=100_000)
    good, bad = event("acme/good"), event("acme/../bad")
    body = as_sent(good, bad, large(200_000))[:150_000]
    assert await receiver.post(body) == 202
    records = await receiver.records()
    (stored,) = [one for one in records if one.topic == NOTIFICATIONS_TOPIC]
    assert json.loads(stored.value) == good
    dead = [one for one in records if one.topic == DEAD_LETTER_TOPIC]
    refused, cut = sorted(dead, key=lambda one: len(one.value))
    assert json.loads(refused.value) == bad
    assert cut.value == body[:EXCERPT_BYTES]
    assert b"before its end" in cut.headers["reason"]


async def test_a_large_body_that_does_not_come_is_shown_as_far_as_it_came(
    start_receiver: StartReceiver,
):
    receiver = await start_receiver({"read_timeout": 0.5}, max_body_bytes=100_000)
    good = event("acme/good")
    body = as_sent(good, large(200_000))

    async def stalled() -> Any:
        yield body[:100_000]
        await asyncio.sleep(5)
        yield body[100_000:]

    url = f"http://127.0.0.1:{receiver.port}/v1/notifications"
    headers = {"Authorization": "Bearer test-token", "Content-Length": str(len(body))}
    async with receiver.http.post(url, data=stalled(), headers=headers) as answer:
        assert answer.status == 202
    records = {record.topic: record for record in await receiver.records()}
    assert json.loads(records[NOTIFICATIONS_TOPIC].value) == good
    assert b"did not arrive in time" in records[DEAD_LETTER_TOPIC].headers["reason"]
    assert records[DEAD_LETTER_TOPIC].value == body[:EXCERPT_BYTES]


async def test_a_large_compressed_body_is_not_read(start_receiver: StartReceiver):
    receiver = await start_receiver(max_body_bytes=100_000)
    body = as_sent(large(200_000))
    assert await receiver.post(body, **{"Content-Encoding": "br"}) == 202
    (record,) = await receiver.records()
    assert (record.topic, record.value) == (DEAD_LETTER_TOPIC, body[:EXCERPT_BYTES])
    assert b"br" in record.headers["reason"]


async def test_large_deliveries_at_once_share_the_room_there_is(start_receiver: StartReceiver):
    receiver = await start_receiver({"in_flight_bytes": 4 * MIB}, ack_timeout=PATIENT)
    events = [large(9 * MIB, f"tenant{number}/large") for number in range(5)]
    statuses = await asyncio.gather(*(receiver.post(as_sent(one)) for one in events))
    assert set(statuses) == {202}
    stored = [json.loads(record.value) for record in await receiver.records()]
    assert sorted(one["id"] for one in stored) == sorted(one["id"] for one in events)
    assert "registry_quota_receiver_in_flight_bytes 0.0" in (await receiver.get("/metrics"))[1]


HOSTILE = [
    (b"", b"x"),
    (b'{"events": [', b"{},"),
    (b'{"events": [{"target": {"references": [', b"{},"),
    (b'{"events": [{"target": {"references": ', b"["),
    (b'{"events": [{"target": {"references": ["', b'\\"'),
    (b'{"events": [{"id": "', b"a"),
    (b'{"events": [{"target": {', b'"a":1,'),
    (b'{"', b"a"),
]


async def test_hostile_large_deliveries_at_once_are_all_answered_in_bounded_memory(
    topics: str, tmp_path: Path
):
    answers: Counter[int] = Counter()

    async def body(opening: bytes, repeated: bytes) -> AsyncIterator[bytes]:
        piece = repeated * (65_536 // len(repeated))
        yield opening
        for _ in range(24 * MIB // len(piece)):
            yield piece

    async with (
        receiver_program(tmp_path / "log", bootstrap=topics, kafka=topics) as receiver,
        new_connections() as http,
    ):
        before = receiver.program.memory()

        async def send(opening: bytes, repeated: bytes) -> None:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            data = body(opening, repeated)
            async with http.post(receiver.load.url, data=data, headers=headers) as answer:
                answers[answer.status] += 1

        await asyncio.gather(*(send(*one) for one in HOSTILE * 2))
        growth = receiver.program.peak_memory() - before
    assert answers == {202: 2 * len(HOSTILE)}
    assert growth < 2 * IN_FLIGHT_BYTES, f"{growth / MIB:.0f} MiB"
