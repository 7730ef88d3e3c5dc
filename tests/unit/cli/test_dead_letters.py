"""What retrying a dead letter sends, and when it is refused."""

import json

import pytest

from cli.dead_letters.letters import StillBadError, dead_letter, messages_for, parse_id
from registry.workspaces import WorkspaceRule
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from tests.support.deliveries import event
from webhook_receiver.messages import Arrival, translate

RULE = WorkspaceRule("^(?P<workspace>[^/]+)/(?P<app>.+)$")
SEEN = "2026-03-01T12:00:00.123456789Z"


def letter(value, *, origin="webhook", first_seen=SEEN, source="edge"):
    headers = [
        ("reason", b"because"),
        ("origin", origin.encode()),
        ("first-seen", first_seen.encode()),
        ("source", source.encode()),
    ]
    return dead_letter(3, 17, None, value, headers, 1_700_000_000_000)


def encoded(**changes):
    return json.dumps(event(**changes)).encode()


def test_a_letter_is_named_by_partition_and_offset():
    assert letter(b"").id == "3-17"
    assert parse_id("3-17") == (3, 17)


@pytest.mark.parametrize(
    "text", ["", "3", "3-", "-3-4", "3-17-1", "3:17", "\u0663-\u0661", "1" * 30 + "-1"]
)
def test_what_is_no_id_is_told_so(text):
    with pytest.raises(ValueError, match="look like 3-17"):
        parse_id(text)


@pytest.mark.parametrize("origin", ["webhook", f"{NOTIFICATIONS_TOPIC}/2/99"])
def test_an_event_is_sent_as_it_came_with_its_first_arrival(origin):
    raw = encoded()
    [message] = messages_for(letter(raw, origin=origin), RULE)
    assert (message.topic, message.value) == (NOTIFICATIONS_TOPIC, raw)
    assert message.key == event()["target"]["repository"].split("/")[0].encode()
    assert dict(message.headers) == {"received-at": SEEN.encode(), "source": b"edge"}


def test_a_body_that_has_become_valid_is_fed_again_event_by_event():
    first, second = encoded(event_id="a"), encoded(event_id="b")
    body = b'{"events": [' + first + b"," + second + b"]}"
    assert [item.value for item in messages_for(letter(body), RULE)] == [first, second]


def test_more_events_than_the_receiver_takes_at_once_are_no_obstacle():
    body = b'{"events": [' + b",".join([encoded()] * 5001) + b"]}"
    [too_many] = translate(body, Arrival("edge", 0), RULE)
    assert too_many.is_dead_letter
    assert len(messages_for(letter(body), RULE)) == 5001


def test_events_of_a_body_that_are_still_nonsense_become_letters_of_their_own():
    body = b'{"events": [' + encoded() + b', {"action": "push"}]}'
    good, bad = messages_for(letter(body), RULE)
    assert good.topic == NOTIFICATIONS_TOPIC
    assert (bad.topic, bad.value) == (DEAD_LETTER_TOPIC, b'{"action": "push"}')
    assert dict(bad.headers)["reason"] == b"target is missing"
    assert dict(bad.headers)["first-seen"] == SEEN.encode()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"events": []}', "holds no events"),
        (b'{"action": "push"}', "target is missing"),
        (encoded()[:-10], "not JSON"),
        (b'{"events": [{"action": "push"}]}', "target is missing"),
    ],
)
def test_what_is_as_wrong_as_before_is_refused_with_the_reason(value, why):
    with pytest.raises(StillBadError, match=why):
        messages_for(letter(value), RULE)


def test_an_event_whose_references_stay_nonsense_is_not_sent_twice():
    raw = encoded(references=[{"digest": "no digest", "size": 1}])
    arrived = translate(b'{"events": [' + raw + b"]}", Arrival("edge", 0), RULE)
    assert [item.is_dead_letter for item in arrived] == [False, True]
    with pytest.raises(StillBadError, match="references"):
        messages_for(letter(raw), RULE)


def test_without_a_readable_first_arrival_the_time_in_kafka_counts():
    [message] = messages_for(letter(encoded(), first_seen="yesterday"), RULE)
    assert dict(message.headers)["received-at"].startswith(b"2023-11-14T22:13:20")
