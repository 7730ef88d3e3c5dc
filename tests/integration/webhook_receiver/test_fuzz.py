"""Whatever is sent: it is answered 202, and what is in Kafka afterwards accounts for all of it."""

from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.kafka import NOTIFICATIONS_TOPIC
from tests.integration.webhook_receiver.conftest import Receiving
from tests.support.captures import all_captures
from tests.support.deliveries import BAD_BODIES, envelope, event

pytestmark = pytest.mark.promise("hostile-input")

FUZZ = settings(
    max_examples=60,
    deadline=None,
    # One receiver for all examples: each reads what it stored itself.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ODD_EVENTS = (
    JSON
    | st.builds(
        lambda field, value: event() | {field: value},
        st.sampled_from(["id", "timestamp", "action", "target", "request", "source", "actor"]),
        JSON,
    )
    | st.builds(
        lambda field, value: event(**{field: value}),
        st.sampled_from(["digest", "size", "tag", "references", "repository", "fromRepository"]),
        JSON,
    )
    | st.builds(event, st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}", fullmatch=True))
)
WHOLE = [*BAD_BODIES.values(), *(d.body for c in all_captures()[:40] for d in c.deliveries()[:2])]
CONTENT_TYPES = st.sampled_from(
    ["application/json", "text/plain", "multipart/form-data; boundary=x", "a/b; charset=utf-7", "x"]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A delivery with a few bytes changed, or cut off somewhere."""
    body = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 4))):
        if body:
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


@FUZZ
@given(events=st.lists(ODD_EVENTS, max_size=6), content_type=CONTENT_TYPES)
async def test_every_event_is_a_notification_or_a_dead_letter(
    receiver: Receiving, events: list[object], content_type: str
):
    body = msgspec.json.encode({"events": events})
    assert await receiver.post(body, **{"Content-Type": content_type}) == 202
    records = await receiver.records()
    going_on = Counter(r.value for r in records if r.topic == NOTIFICATIONS_TOPIC)
    dead = Counter(r.value for r in records if r.topic != NOTIFICATIONS_TOPIC)
    assert going_on | dead == Counter(msgspec.json.encode(one) for one in events)


@FUZZ
@given(body=st.binary(max_size=500) | JSON.map(msgspec.json.encode) | damaged())
async def test_any_bytes_are_in_kafka_afterwards(receiver: Receiving, body: bytes):
    assert await receiver.post(body) == 202
    records = await receiver.records()
    assert records or msgspec.json.decode(body)["events"] == []
    assert all(record.value in body for record in records)
    for record in records:
        assert record.topic == NOTIFICATIONS_TOPIC or record.headers["reason"]


async def test_the_receiver_is_well_after_all_that(receiver: Receiving):
    for body in WHOLE:
        assert await receiver.post(body) == 202
    text = (await receiver.get("/metrics"))[1]
    assert 'registry_quota_receiver_requests_total{status="503"} 0.0' in text
    assert "registry_quota_receiver_in_flight_bytes 0.0" in text
    assert await receiver.post(envelope(event())) == 202
