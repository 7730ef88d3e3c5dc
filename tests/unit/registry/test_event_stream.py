import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.event_stream import EXCERPT_BYTES, LONGEST_MEMBER, EventStream, StreamedEvent
from registry.notifications import MAX_EVENTS, BadEnvelope, TooManyEvents, split_envelope
from tests.support.deliveries import envelope, event

MOST = 100_000


def read(body: bytes, *, cuts: int | list[int] = 4096, most: int = MOST) -> list[StreamedEvent]:
    """All events of a body that arrives in pieces."""
    stream = EventStream(most)
    ends = list(range(0, len(body), cuts)) if isinstance(cuts, int) else sorted(cuts)
    found: list[StreamedEvent] = []
    for start, end in zip([0, *ends], [*ends, len(body)], strict=True):
        found += stream.feed(body[start:end])
    stream.end()
    return found


texts = st.text('\\"{}[],: ab\x00é\U0001f600\ud83d', max_size=6)
values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, False, 0, -1.5e300, 12345678901234567890]) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(values | st.dictionaries(texts, values, max_size=3), max_size=3),
    st.dictionaries(texts.filter(lambda name: name != "events"), values, max_size=3),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.data(),
)
def test_every_event_is_handed_on_as_it_was_sent_wherever_the_pieces_end(
    events: list[Any],
    others: dict[str, Any],
    indent: int | None,
    ascii_only: bool,
    data: st.DataObject,
):
    body = json.dumps({"events": events, **others}, indent=indent, ensure_ascii=ascii_only)
    raw = body.encode("utf-8", "surrogatepass")
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=8))
    found = read(raw, cuts=cuts)
    assert [json.loads(one.raw) for one in found] == events
    assert all(one.raw in raw and not one.shortened for one in found)
    if "\ud83d" not in body and "ud83d" not in body:  # half a pair, which msgspec does not take
        # What msgspec takes as one piece is the same, byte for byte.
        whole = split_envelope(raw)
        sent = [one.raw for one in whole.good] + [one.raw for one in whole.refused]
        assert Counter(one.raw for one in found) == Counter(sent)


@given(
    st.dictionaries(
        texts.map("n{}".format),
        values | st.dictionaries(texts.map("n{}".format), values, max_size=3),
        max_size=4,
    ),
    texts.map("m{}".format),
    st.sampled_from(["event", "target"]),
    st.integers(1, 200),
    st.data(),
)
def test_an_event_that_is_too_long_loses_its_long_members_and_nothing_else(
    short: dict[str, Any], name: str, place: str, piece: int, data: st.DataObject
):
    long = ["<" * LONGEST_MEMBER, {"inner": [1, {"deep": '}]"\\'}]}]
    before, after = (
        {**short, "target": {"tag": "1"}},
        {"actor": {}, "request": {"id": "x", "a": []}},
    )
    if place == "event":
        sent = {**before, name: long, **after}
        kept = {**before, **after}
    else:
        sent = {**before, "target": {"tag": "1", name + "!": long, "url": ""}, **after}
        kept = {**before, "target": {"tag": "1", "url": ""}, **after}
    raw = json.dumps({"events": [1, sent, {"next": "one"}]}).encode()
    first, found, last = read(
        raw, cuts=data.draw(st.sampled_from([piece, 4096])), most=LONGEST_MEMBER
    )
    assert (first.raw, last.raw) == (b"1", b'{"next": "one"}')
    assert found.shortened
    assert json.loads(found.raw) == kept


def test_a_record_holds_what_is_exactly_as_long_as_it_may_be():
    usual = event(url="x" * 5000)
    body = json.dumps({"events": [usual]}).encode()
    length = len(json.dumps(usual))
    for most, shortened in [(length, False), (length - 1, True)]:
        for cuts in (100, 10**6):
            (found,) = read(body, cuts=cuts, most=most)
            assert found.shortened == shortened
            assert json.loads(found.raw) == usual, "no member of it is long"


def test_what_is_held_never_passes_one_record():
    references = [{"digest": "sha256:" + "0" * 64, "annotations": {"a": "<" * 100}}] * 20_000
    body = (
        json.dumps({"events": [event(references=references)] * 2}).replace("<", "\\u003c").encode()
    )
    stream = EventStream(MOST)
    found = []
    for start in range(0, len(body), 4096):
        found += stream.feed(body[start : start + 4096])
        assert stream.held <= MOST + 4096
    stream.end()
    assert [len(one.raw) < 1000 for one in found] == [True, True]


def test_where_there_is_no_room_an_event_is_shortened_at_once():
    body = envelope(event(references=[{"digest": "x" * 50_000}]))
    stream = EventStream(MOST)
    stream.feed(body[:20_000])
    stream.shorten()
    (found,) = stream.feed(body[20_000:])
    assert found.shortened
    assert "references" not in json.loads(found.raw)["target"]


def test_long_nonsense_that_is_no_object_is_an_excerpt():
    body = b'{"events": ["' + b"x" * 200_000 + b'"]}'
    (found,) = read(body)
    assert found == StreamedEvent(b'"' + b"x" * (EXCERPT_BYTES - 1), shortened=True)


@given(st.binary(max_size=300) | st.text('{}[]":,\\ events1').map(str.encode), st.integers(1, 50))
def test_hostile_bytes_end_in_a_bad_envelope_or_in_events_and_in_nothing_else(
    body: bytes, cuts: int
):
    with suppress(BadEnvelope):
        read(body, cuts=cuts)


@pytest.mark.parametrize("cuts", [1, 7, 10_000])
def test_a_body_that_ends_too_early_is_no_envelope(cuts: int):
    body = envelope(event(references=[{"digest": 'a\\"b', "annotations": {"a": "b"}}]))
    assert len(read(body, cuts=cuts)) == 1
    for end in range(0, len(body), 3):
        with pytest.raises(BadEnvelope):
            read(body[:end], cuts=cuts)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b"{}",
        b'{"event": []}',
        b'{"events": null}',
        b'{"events": {}}',
        b'{"events": []} {}',
        b'{"events": [1 2]}',
        b'{"events": [,]}',
        b'{"events": [1,]}',
        b'{"events" []}',
        b"{events: []}",
        b'{"events": [{"a" 1}]}',
        b'{"events": [{"a": }]}',
    ],
)
def test_what_is_no_envelope_is_told_so(body: bytes):
    with pytest.raises(BadEnvelope):
        read(body, cuts=1)


PLENTY = 3_000_000


@pytest.mark.parametrize(
    ("opening", "repeated"),
    [
        (b'{"events": [', b"{},"),
        (b'{"events": [', b"1,"),
        (b'{"events": [{"target": {"references": ', b"["),
        (b'{"events": [{"target": {"references": [', b"[[[[[]]]]],"),
        (b'{"events": [{', b'"a":1,'),
        (b"{", b'"a":1,'),
        (b'{"', b"a"),
    ],
)
def test_nonsense_ends_before_it_costs_much(opening: bytes, repeated: bytes):
    body = opening + repeated * (PLENTY // len(repeated))
    seen = 0

    def look() -> None:
        nonlocal seen
        stream = EventStream(MOST)
        for start in range(0, len(body), 65_536):
            seen = start
            stream.feed(body[start : start + 65_536])

    with pytest.raises(BadEnvelope):
        look()
    assert seen < 1_000_000, "most of it was not looked at"


def test_more_events_than_a_small_delivery_may_have_are_all_taken():
    events = [event(f"acme/app{number}") for number in range(MAX_EVENTS + 1)]
    found = read(envelope(*events), cuts=65_536)
    assert [json.loads(one.raw) for one in found] == events
    with pytest.raises(TooManyEvents):
        read(envelope(*[{}] * (MAX_EVENTS * 2)), cuts=65_536)
