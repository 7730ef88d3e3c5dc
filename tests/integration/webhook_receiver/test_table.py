"""The rows of the contract's table, through real sockets into a real Kafka."""

import asyncio
import json

import pytest

from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from tests.integration.webhook_receiver.conftest import NEXT_TOKEN, TOKEN, Receiving, StartReceiver
from tests.support.captures import captures_or_skip
from tests.support.deliveries import BAD_BODIES, BAD_REFERENCES, envelope, event
from tests.support.waiting import wait_until
from webhook_receiver.messages import EXCERPT_BYTES


async def test_an_accepted_event_is_in_kafka_as_the_registry_sent_it(receiver: Receiving):
    body = envelope(event("acme/web"))
    assert await receiver.post(body) == 202
    (record,) = await receiver.records()
    assert (record.topic, record.key) == (NOTIFICATIONS_TOPIC, b"acme")
    assert record.value in body
    assert record.headers.keys() == {"received-at", "source"}


async def test_every_captured_delivery_is_stored_in_order(receiver: Receiving):
    sent = []
    for capture in captures_or_skip():
        if not capture.has_references:
            continue
        for delivery in capture.deliveries()[:10]:
            assert await receiver.post(delivery.body) == 202
            sent += delivery.events
    stored = await receiver.records()
    assert {record.topic for record in stored} == {NOTIFICATIONS_TOPIC}
    for key in {record.key for record in stored}:
        of_key = [record for record in stored if record.key == key]
        assert len({record.partition for record in of_key}) == 1
        assert [json.loads(record.value) for record in of_key] == [
            one
            for one in sent
            if (one["target"]["repository"].rpartition("/")[0].split("/")[0] or "_").encode() == key
        ]


async def test_what_is_wrong_is_acknowledged_and_in_the_dead_letters(receiver: Receiving):
    for name, body in BAD_BODIES.items():
        assert await receiver.post(body) == 202, name
        (record,) = await receiver.records()
        assert record.topic == DEAD_LETTER_TOPIC, name
        assert record.value in body, name
        assert record.headers["reason"], name
        assert record.headers["origin"] == b"webhook"
        assert record.headers["first-seen"]


async def test_a_push_with_nonsense_references_is_both(receiver: Receiving):
    for body in BAD_REFERENCES.values():
        assert await receiver.post(body) == 202
        assert {r.topic for r in await receiver.records()} == {
            NOTIFICATIONS_TOPIC,
            DEAD_LETTER_TOPIC,
        }


async def test_a_mixed_envelope_parts_ways(receiver: Receiving):
    good = [event("acme/web"), event("acme/api"), event("acme/db")]
    bad = event("acme/../x")
    assert await receiver.post(envelope(good[0], bad, good[1], good[2])) == 202
    records = await receiver.records()
    assert [json.loads(r.value)["id"] for r in records if r.topic == NOTIFICATIONS_TOPIC] == [
        one["id"] for one in good
    ]
    (dead,) = [r for r in records if r.topic == DEAD_LETTER_TOPIC]
    assert json.loads(dead.value)["id"] == bad["id"]


async def test_the_largest_envelope_is_stored_in_time(receiver: Receiving):
    events = [event(f"acme/app{number}") for number in range(5000)]
    body = json.dumps({"events": events}).encode()
    assert len(body) < 8 * 1024 * 1024
    assert await receiver.post(body) == 202
    assert [json.loads(r.value)["id"] for r in await receiver.records()] == [
        one["id"] for one in events
    ]


async def test_a_body_over_the_limit_is_drained_and_shown(start_receiver: StartReceiver):
    receiver = await start_receiver(max_body_bytes=100_000)
    body = b"[" + b"1," * 200_000 + b"1]"
    assert await receiver.post(body) == 202
    (record,) = await receiver.records()
    assert record.topic == DEAD_LETTER_TOPIC
    assert record.value == body[:EXCERPT_BYTES]
    assert b"100000" in record.headers["reason"]
    assert str(len(body)).encode() in record.headers["reason"]
    just_fits = b" " * (100_000 - 2) + b"{}"
    assert await receiver.post(just_fits) == 202
    (record,) = await receiver.records()
    assert record.value == just_fits


async def test_the_usual_limit_is_eight_mebibytes(receiver: Receiving):
    padding = "x" * (8 * 1024 * 1024 - len(envelope(event("acme/large", url=""))))
    body = envelope(event("acme/large", url=padding))
    assert len(body) == 8 * 1024 * 1024
    assert await receiver.post(body) == 202
    (record,) = await receiver.records()
    assert record.topic == NOTIFICATIONS_TOPIC
    assert record.value in body
    assert await receiver.post(body + b" ") == 202
    assert [again.value for again in await receiver.records()] == [record.value], "read as a stream"


async def test_large_events_of_several_workspaces_at_once_do_not_choke_the_broker(
    start_receiver: StartReceiver,
):
    receiver = await start_receiver(ack_timeout=10)
    bodies = [envelope(event(f"tenant{n}/large", url="x" * 7_900_000)) for n in range(5)]
    assert await asyncio.gather(*map(receiver.post, bodies)) == [202] * 5
    stored = await receiver.records()
    assert sorted(record.key or b"" for record in stored) == [b"tenant%d" % n for n in range(5)]


@pytest.mark.parametrize("token", ["wrong", "", TOKEN + "x", TOKEN[:-1], TOKEN.upper()])
async def test_without_the_right_token_nothing_is_taken(receiver: Receiving, token: str):
    assert await receiver.post(envelope(event()), token=token) == 401
    assert await receiver.records() == []


async def test_both_tokens_of_a_rotation_open_the_door(receiver: Receiving):
    assert await receiver.post(envelope(event()), token=TOKEN) == 202
    assert await receiver.post(envelope(event()), token=NEXT_TOKEN) == 202
    assert len(await receiver.records()) == 2


async def test_many_deliveries_at_once_are_all_stored_once(receiver: Receiving):
    events = [event(f"tenant{n % 50}/app", event_id=f"event-{n}") for n in range(1000)]
    statuses = await asyncio.gather(*(receiver.post(envelope(one)) for one in events))
    assert set(statuses) == {202}
    stored = [json.loads(record.value)["id"] for record in await receiver.records()]
    assert sorted(stored) == sorted(one["id"] for one in events)


async def test_other_paths_and_methods(receiver: Receiving):
    base = f"http://127.0.0.1:{receiver.port}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for method, path, status in [
        ("GET", "/v1/notifications", 405),
        ("PUT", "/v1/notifications", 405),
        ("DELETE", "/v1/notifications", 405),
        ("POST", "/v1/notifications/", 404),
        ("POST", "/v1", 404),
        ("POST", "/", 404),
        ("POST", "/v1/%2e%2e/notifications", 404),
    ]:
        async with receiver.http.request(method, base + path, data=b"x", headers=headers) as answer:
            assert answer.status == status, (method, path)
    assert await receiver.records() == []


async def test_the_operations_routes(receiver: Receiving):
    assert await receiver.get("/healthz") == (200, '{"status": "alive"}')
    assert (await receiver.get("/readyz"))[0] == 200
    await receiver.post(envelope(event()))
    status, text = await receiver.get("/metrics")
    assert status == 200
    assert 'registry_quota_receiver_events_total{action="push"} 1.0' in text
    assert "registry_quota_receiver_in_flight_bytes 0.0" in text


async def test_a_receiver_that_is_told_to_stop_is_not_ready(receiver: Receiving):
    receiver.stopping.set("a test")
    assert (await receiver.get("/readyz"))[0] == 503
    assert (await receiver.get("/healthz"))[0] == 200
    assert await receiver.post(envelope(event())) == 202


async def test_without_kafka_the_answer_is_quick_and_says_when_to_come_back(
    start_receiver: StartReceiver,
):
    receiver = await start_receiver(kafka_bootstrap="127.0.0.1:1", ack_timeout=0.5)

    async def is_known() -> bool:
        return "connecting" not in (await receiver.get("/readyz"))[1]

    await wait_until(is_known, what="Kafka is known to be away")
    assert (await receiver.get("/readyz"))[0] == 503
    async with asyncio.timeout(0.5):
        async with receiver.http.post(
            f"http://127.0.0.1:{receiver.port}/v1/notifications",
            data=envelope(event()),
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
    assert await receiver.post(b"", token="wrong") == 401
