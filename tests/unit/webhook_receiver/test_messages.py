import json
import time
import tracemalloc
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.notifications import MAX_EVENTS
from registry.workspaces import WorkspaceRule
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from tests.support.captures import captures_or_skip, raw_deliveries_or_skip
from tests.support.deliveries import BAD_BODIES, BAD_REFERENCES, envelope, event
from webhook_receiver.messages import (
    EXCERPT_BYTES,
    Arrival,
    Message,
    Reason,
    shortened,
    translate,
)

ARRIVAL = Arrival("edge", 1_795_478_779_123_456_789)
RULE = WorkspaceRule(r"^(?P<workspace>[^/]+)/(?P<app>.+)$")


def translated(body: bytes) -> list[Message]:
    return translate(body, ARRIVAL, RULE)


def reason(message: Message) -> str:
    return dict(message.headers)["reason"].decode()


def test_every_captured_event_goes_on_as_it_was_sent():
    captures = captures_or_skip()
    assert len({capture.version for capture in captures}) == 2
    for capture in captures:
        for delivery in capture.deliveries():
            messages = translated(delivery.body)
            assert len(messages) == len(delivery.events)
            for message, sent in zip(messages, delivery.events, strict=True):
                assert message.topic == NOTIFICATIONS_TOPIC
                assert message.value in delivery.body
                assert json.loads(message.value) == sent
                workspace, _, rest = sent["target"]["repository"].partition("/")
                assert message.key == (workspace if rest else "_").encode()
                assert message.label == sent["action"]


def test_bodies_as_they_came_over_the_wire_keep_every_byte():
    for body in raw_deliveries_or_skip():
        (message,) = translated(body)
        assert message.topic == NOTIFICATIONS_TOPIC
        start = body.index(b"{", body.index(b"["))
        assert message.value == body[start : body.rindex(b"}", 0, body.rindex(b"]")) + 1]


def test_a_notification_says_when_and_whence_it_came():
    (message,) = translated(envelope(event()))
    assert message.headers == [
        ("received-at", b"2026-11-24T00:06:19.123456789Z"),
        ("source", b"edge"),
    ]


@pytest.mark.parametrize("name", BAD_BODIES)
def test_what_is_wrong_becomes_one_dead_letter_with_the_reason(name):
    body = BAD_BODIES[name]
    (message,) = translated(body)
    assert message.topic == DEAD_LETTER_TOPIC
    assert message.label in {Reason.NOT_AN_ENVELOPE, Reason.BAD_EVENT}
    assert message.value in body
    if message.label == Reason.NOT_AN_ENVELOPE:
        assert message.value == body
        assert message.key is None
    assert reason(message)
    assert dict(message.headers) == {
        "reason": reason(message).encode(),
        "origin": b"webhook",
        "first-seen": b"2026-11-24T00:06:19.123456789Z",
        "source": b"edge",
    }


@pytest.mark.parametrize("name", BAD_REFERENCES)
def test_a_push_with_nonsense_references_goes_on_and_is_shown(name):
    notification, dead = translated(BAD_REFERENCES[name])
    assert (notification.topic, notification.key) == (NOTIFICATIONS_TOPIC, b"acme")
    assert (dead.topic, dead.key, dead.label) == (DEAD_LETTER_TOPIC, b"acme", Reason.BAD_EVENT)
    assert notification.value == dead.value


def test_there_are_many_ways_to_be_wrong():
    assert len(BAD_BODIES) >= 60
    assert len(set(BAD_BODIES.values())) == len(BAD_BODIES)


def test_good_and_bad_events_of_one_delivery_part_ways_in_order():
    good = [event("acme/web"), event("acme/api"), event("other/web"), event("single")]
    bad = [event("acme/../etc"), event("acme/web", size=-1)]
    messages = translated(envelope(good[0], bad[0], good[1], bad[1], good[2], good[3]))
    notifications = [m for m in messages if m.topic == NOTIFICATIONS_TOPIC]
    assert [json.loads(m.value)["id"] for m in notifications] == [e["id"] for e in good]
    assert [m.key for m in notifications] == [b"acme", b"acme", b"other", b"_"]
    dead = [m for m in messages if m.is_dead_letter]
    assert [json.loads(m.value)["id"] for m in dead] == [e["id"] for e in bad]
    # The workspace is known where the name is a name.
    assert [m.key for m in dead] == [None, b"acme"]


def test_an_envelope_without_events_is_no_message():
    assert translated(b'{"events": []}') == []


def test_fields_that_nobody_knows_change_nothing():
    strange = event() | {"glVersion": 1, "meta": {"deep": [1, {"a": None}]}}
    body = json.dumps({"events": [strange], "version": "9"}).encode()
    (message,) = translated(body)
    assert message.topic == NOTIFICATIONS_TOPIC
    assert json.loads(message.value) == strange


def test_more_events_than_can_be_stored_in_time_stay_together():
    body = b'{"events": [%s]}' % b",".join([b"0"] * (MAX_EVENTS + 1))
    (message,) = translated(body)
    assert (message.label, message.value) == (Reason.TOO_MANY_EVENTS, body)
    assert len(translated(b'{"events": [%s]}' % b",".join([b"0"] * MAX_EVENTS))) == MAX_EVENTS


SWOLLEN = {
    "numbers": b'{"events": [%s0]}' % (b"0," * 2_000_000),
    "numbers, cut off": b'{"events": [%s' % (b"0," * 2_000_000),
    "objects": b'{"events": [%s{}]}' % (b"{}," * 2_000_000),
    "twice": b'{"events": [%s0], "events": [0]}' % (b"0," * 2_000_000),
    "references": envelope(event(references="HERE")).replace(
        b'"HERE"', b"[%s{}]" % (b"{}," * 2_000_000)
    ),
    "urls of a reference": envelope(event(references="HERE")).replace(
        b'"HERE"', b'[{"urls": [%s"x"]}]' % (b'"x",' * 1_500_000)
    ),
}


@pytest.mark.parametrize("name", SWOLLEN)
def test_what_is_made_of_tiny_pieces_takes_hardly_more_memory_than_it_has_bytes(name: str):
    body = SWOLLEN[name]
    tracemalloc.start()
    try:
        messages = translated(body)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len([message for message in messages if message.is_dead_letter]) == 1
    # The event itself is one copy, and its dead letter holds it.
    assert peak < 3 * len(body)


def test_a_body_made_to_keep_us_busy_does_not():
    body = b'{"events": [%s0]}' % (b"0," * (4 * 1024 * 1024 - 8))
    started = time.process_time()
    (message,) = translated(body)
    assert message.label == Reason.TOO_MANY_EVENTS
    assert time.process_time() - started < 5


def test_a_reason_is_short_and_one_header_whatever_was_sent():
    (message,) = translated(envelope(event("acme/" + "\x00\r\n'\"" * 60_000)))
    assert len(dict(message.headers)["reason"]) <= 1024
    assert not {"\x00", "\r", "\n"} & set(reason(message))


def test_a_message_that_kafka_finds_too_large_is_shortened_to_a_dead_letter():
    (message,) = translated(envelope(event("acme/web", url="x" * 200_000)))
    short = shortened(message)
    assert short is not None
    assert (short.topic, short.key, short.label) == (DEAD_LETTER_TOPIC, b"acme", "event_too_large")
    assert short.value == message.value[:EXCERPT_BYTES]
    assert str(len(message.value)) in reason(short)
    assert dict(short.headers)["first-seen"] == dict(message.headers)["received-at"]
    assert dict(short.headers)["source"] == b"edge"
    assert shortened(short) is None


def test_a_dead_letter_that_is_too_large_keeps_its_reason():
    dead = ARRIVAL.dead_letter(b"x" * 200_000, Reason.NOT_AN_ENVELOPE, "not JSON", key=b"acme")
    short = shortened(dead)
    assert short is not None
    assert (short.topic, short.key, short.label) == (DEAD_LETTER_TOPIC, b"acme", dead.label)
    assert reason(short).startswith("not JSON; ")
    assert dict(short.headers)["first-seen"] == dict(dead.headers)["first-seen"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELD = st.sampled_from(["id", "timestamp", "action", "target", "request", "source", "events"])
ODD_EVENTS = st.builds(lambda field, value: event() | {field: value}, FIELD, JSON) | st.builds(
    lambda field, value: event(**{field: value}),
    st.sampled_from(["digest", "size", "tag", "references", "mediaType", "fromRepository"]),
    JSON,
)


@given(st.binary(max_size=200) | JSON.map(msgspec.json.encode))
def test_any_body_is_accounted_for(body):
    messages = translated(body)
    assert len(messages) == 1 or body.replace(b" ", b"").startswith(b'{"events":[')


@given(st.lists(ODD_EVENTS | JSON, max_size=5))
def test_every_event_of_any_envelope_is_accounted_for(events):
    messages = translated(msgspec.json.encode({"events": events}))
    going_on = Counter(m.value for m in messages if not m.is_dead_letter)
    dead = Counter(m.value for m in messages if m.is_dead_letter)
    sent = Counter(msgspec.json.encode(one) for one in events)
    assert going_on | dead == sent
    for both in going_on & dead:
        assert b'"references"' in both
