import json
import re
import uuid
from copy import deepcopy
from datetime import datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from registry.models import Notification
from registry.names import format_digest
from registry.notifications import (
    BadEnvelope,
    BadEvent,
    decode_event,
    event_uuid,
    split_envelope,
)
from registry.timestamps import to_ns
from tests.support.captures import captures_or_skip, raw_deliveries_or_skip

DIGEST = "sha256:" + "ab" * 32
EVENT: dict[str, Any] = {
    "id": "641ad7d5-422b-4228-815e-34fc4948ce09",
    "timestamp": "2026-11-23T20:58:28.242777812Z",
    "action": "push",
    "target": {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "size": 349,
        "digest": DIGEST,
        "length": 349,
        "repository": "acme/web",
        "url": "http://127.0.0.1:5110/v2/acme/web/manifests/" + DIGEST,
        "tag": "1.0",
        "references": [{"mediaType": "a/b", "size": 1, "digest": DIGEST}],
    },
    "request": {"id": "r", "addr": "a", "host": "h", "method": "PUT", "useragent": "skopeo/1.9"},
    "actor": {},
    "source": {"addr": "registry-1:5110", "instanceID": "i"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """EVENT with `target__size=1`-like changes; a value of `...` removes the key."""
    event = deepcopy(EVENT)
    for path, value in changes.items():
        *parents, key = path.split("__")
        place = event
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[key]
        else:
            place[key] = value
    return event


def wire(*events: object) -> bytes:
    return json.dumps({"events": events}, indent=3).encode()


def decoded(event: dict[str, Any]) -> Notification:
    return decode_event(json.dumps(event).encode())


def plain_reading(event: dict[str, Any]) -> dict[str, Any]:
    """The fields of an event as a slow, obvious reader finds them."""
    target = event["target"]
    head, _, fraction = event["timestamp"].removesuffix("Z").partition(".")
    seconds = to_ns(datetime.fromisoformat(head + "+00:00"))
    references = target.get("references")
    return {
        "id": event["id"],
        "timestamp_ns": seconds + int((fraction + "0" * 9)[:9]),
        "action": event["action"],
        "repository": target["repository"],
        "digest": target.get("digest") or None,
        "tag": target.get("tag") or None,
        "media_type": target.get("mediaType", ""),
        "size": target.get("size", 0),
        "from_repository": target.get("fromRepository"),
        "references": None
        if references is None
        else [
            (
                r["digest"],
                r["size"],
                r["mediaType"],
                bool(r.get("urls")),
            )
            for r in references
        ],
        "method": event["request"].get("method", ""),
        "user_agent": event["request"].get("useragent", ""),
        "instance_id": event["source"].get("instanceID", ""),
    }


def as_plain(notification: Notification) -> dict[str, Any]:
    n = notification
    return {
        "id": n.id,
        "timestamp_ns": n.timestamp_ns,
        "action": n.action,
        "repository": n.repository,
        "digest": n.digest and format_digest(n.digest),
        "tag": n.tag,
        "media_type": n.media_type,
        "size": n.size,
        "from_repository": n.from_repository,
        "references": None
        if n.references is None
        else [(format_digest(d.digest), d.size, d.media_type, d.has_urls) for d in n.references],
        "method": n.method,
        "user_agent": n.user_agent,
        "instance_id": n.instance_id,
    }


def test_every_captured_delivery_is_read_in_full():
    seen = 0
    for capture in captures_or_skip():
        for delivery in capture.deliveries():
            envelope = split_envelope(delivery.body)
            assert envelope.refused == [], str(capture)
            assert len(envelope.good) == len(delivery.events), str(capture)
            for good, event in zip(envelope.good, delivery.events, strict=True):
                assert json.loads(good.raw) == event
                assert good.raw in delivery.body
                assert as_plain(good.notification) == plain_reading(event), str(capture)
                assert decode_event(good.raw) == good.notification
                seen += 1
    assert seen > 2000


def test_an_event_keeps_the_very_bytes_that_came_over_the_wire():
    for body in raw_deliveries_or_skip():
        [good] = split_envelope(body).good
        assert good.raw in body
        assert good.raw.startswith(b"{\n         ")


def test_layers_that_may_live_elsewhere_are_told_from_others():
    elsewhere = [
        reference
        for capture in captures_or_skip()
        if capture.scenario == "foreign_layer_allowed"
        for raw in capture.raw_events()
        for reference in decode_event(raw).references or ()
        if reference.has_urls
    ]
    assert {reference.size for reference in elsewhere} == {90396}


def test_good_events_pass_beside_bad_ones_in_order():
    body = wire(EVENT, changed(action="explode"), 7, changed(id="second"))
    envelope = split_envelope(body)
    assert [good.notification.id for good in envelope.good] == [EVENT["id"], "second"]
    assert [refused.repository for refused in envelope.refused] == ["acme/web", None]
    assert [json.loads(refused.raw) for refused in envelope.refused] == [
        changed(action="explode"),
        7,
    ]


def test_an_empty_list_of_events_is_a_delivery_of_nothing():
    assert split_envelope(b'{"events": []}').good == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"events": [', "not JSON"),
        (b'{"events": []} x', "not JSON"),
        (b'{"events": [{"a":}]}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"events": [], "x": "\xff"}', "not UTF-8"),
        (b"\x1f\x8b\x08\x00", "not UTF-8"),
        (b'{"events": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "too deeply"),
        (b"[" * 100_000, "not an envelope"),
        (b"null", "not an envelope"),
        (b"[]", "not an envelope"),
        (b"7", "not an envelope"),
        (b"{}", "not an envelope"),
        (b'{"events": null}', "not an envelope"),
        (b'{"events": {}}', "not an envelope"),
        (b'{"events": "x"}', "not an envelope"),
        (b'{"Events": []}', "not an envelope"),
    ],
)
def test_what_is_no_envelope_is_refused_with_a_reason(body, reason):
    with pytest.raises(BadEnvelope, match=reason):
        split_envelope(body)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (None, "Expected `object`"),
        ([], "Expected `object`"),
        ("x", "Expected `object`"),
        ({}, "missing required field `action`"),
        (changed(action="explode"), "Invalid enum value"),
        (changed(action=None), "Expected `str`"),
        (changed(id=...), "id is missing"),
        (changed(id=""), "id is missing"),
        (changed(id=5), "Expected `str"),
        (changed(id="a\x00b"), "NUL"),
        (changed(id="x" * 256), "longer than 255"),
        (changed(timestamp=...), "timestamp is missing"),
        (changed(timestamp="yesterday"), "not an RFC 3339 time"),
        (changed(timestamp="0001-01-01T00:00:00Z"), "outside 1970"),
        (changed(target=...), "target is missing"),
        (changed(target=None), "target is missing"),
        (changed(target=[]), "Expected `object"),
        (changed(target__repository=...), "repository is missing"),
        (changed(target__repository=None), "repository is missing"),
        (changed(target__repository=""), "repository is missing"),
        (changed(target__repository="../etc"), "outside the distribution grammar"),
        (changed(target__repository="acme/a%2fb"), "outside the distribution grammar"),
        (changed(target__repository="acme/a\x00"), "outside the distribution grammar"),
        (changed(target__repository="a" * 256), "at most 255"),
        (changed(target__fromRepository="a//b"), "outside the distribution grammar"),
        (changed(target__digest=...), "digest is missing in a push"),
        (changed(target__digest=""), "digest is missing in a push"),
        (changed(target__digest="sha256:12"), "64 lower-case hex digits"),
        (changed(target__digest="md5:" + "ab" * 16), "does not start with sha256:"),
        (changed(action="mount", target__digest=""), "digest is missing in a mount"),
        (changed(action="pull", target__digest=""), "digest is missing in a pull"),
        (changed(action="delete", target__digest="", target__tag=""), "neither a digest nor a tag"),
        (changed(target__tag="a/b"), "tag .* outside"),
        (changed(target__tag="x" * 129), "tag .* outside"),
        (changed(target__size=-1), ">= 0"),
        (changed(target__size=2**63), "<= 9223372036854775807"),
        (changed(target__size=2**64), "<= 9223372036854775807"),
        (changed(target__size=10**400), "Integer value out of range|out of range|<="),
        (changed(target__size=1.5), "got `float`"),
        (changed(target__size="12"), "got `str`"),
        (changed(target__size=True), "got `bool`"),
        (changed(target__length=-1), ">= 0"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused_with_a_reason(event, reason):
    raw = json.dumps(event).encode()
    with pytest.raises(BadEvent, match=reason) as caught:
        decode_event(raw)
    [refused] = split_envelope(wire(event)).refused
    assert refused.reason == str(caught.value)
    assert refused.reason.isprintable()
    assert len(refused.reason) < 500
    assert json.loads(refused.raw) == event


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        ({}, "Expected `array"),
        ("x", "Expected `array"),
        ([None], "Expected `object`"),
        ([{"digest": DIGEST, "size": -1}], ">= 0"),
        ([{"digest": DIGEST, "size": 2**63}], "<= 9223372036854775807"),
        ([{"digest": DIGEST, "size": 1.5}], "got `float`"),
        ([{"digest": DIGEST, "size": "1"}], "got `str`"),
        ([{"digest": "sha256:x", "size": 1}], "hex digits"),
        ([{"size": 1}], "digest"),
        ([{"digest": DIGEST, "size": 1, "urls": "x"}], "Expected `array"),
    ],
)
def test_a_push_counts_whatever_its_client_declared_and_a_person_sees_the_nonsense(
    references, reason
):
    event = changed(target__references=references)
    assert decoded(event) == decoded(changed(target__references=...))
    envelope = split_envelope(wire(event))
    [good], [refused] = envelope.good, envelope.refused
    assert good.notification.references is None
    assert good.raw == refused.raw
    assert refused.repository == "acme/web"
    assert re.search(reason, refused.reason)


def test_the_largest_size_of_a_registry_is_taken():
    assert decoded(changed(target__size=2**63 - 1)).size == 2**63 - 1


@pytest.mark.parametrize("empty", [..., None, ""])
def test_absent_null_and_empty_mean_the_same(empty):
    notification = decoded(
        changed(
            action="delete",
            target__digest=empty,
            target__mediaType=empty,
            target__fromRepository=empty if empty is not ... else None,
            target__size=0 if empty == "" else empty,
            target__length=...,
            target__references=... if empty == "" else empty,
            request={} if empty is ... else {"useragent": empty},
            source={} if empty is ... else {"instanceID": empty},
        )
    )
    assert notification == Notification(
        id=EVENT["id"],
        timestamp_ns=notification.timestamp_ns,
        action="delete",
        repository="acme/web",
        tag="1.0",
    )


@pytest.mark.parametrize("part", ["request", "source", "actor"])
@pytest.mark.parametrize("empty", [..., None, {}])
def test_parts_that_decide_nothing_may_be_missing(part, empty):
    assert decoded(changed(**{part: empty})).repository == "acme/web"


def test_references_that_are_there_but_empty_are_told_from_none():
    assert decoded(changed(target__references=[])).references == ()
    assert decoded(changed(target__references=...)).references is None
    assert decoded(changed(target__references=None)).references is None


def test_unknown_fields_and_those_of_gitlab_are_ignored():
    event = changed(
        actor__user_type="personal_access_token",
        actor__name="jane",
        meta={"project_path": "g/p"},
        target__platform={"os": "linux"},
        target__annotations={"a": "b"},
        target__data="aGk=",
        target__artifactType="application/spdx+json",
    )
    notification = decoded(event)
    assert notification.artifact_type == "application/spdx+json"
    assert as_plain(notification) == plain_reading(event)


def test_a_clients_own_text_is_cleaned_and_never_a_reason_to_drop_its_push():
    strange = {"mediaType": "a\x00b" + "x" * 5000, "size": 1, "digest": DIGEST}
    notification = decoded(
        changed(target__references=[strange], request__useragent="\x00" * 3 + "é" * 9999)
    )
    assert "\x00" not in notification.user_agent
    [reference] = notification.references or ()
    assert "\x00" not in reference.media_type


def test_our_own_requests_are_recognised():
    assert decoded(changed(request__useragent="registry-quota/0.1.0")).is_own
    assert not decoded(EVENT).is_own


def test_blobs_are_told_from_manifests():
    assert decoded(changed(target__mediaType="application/octet-stream")).is_blob
    assert not decoded(EVENT).is_blob


def test_an_event_id_that_is_a_uuid_keeps_its_bytes():
    text = EVENT["id"]
    assert event_uuid(text) == uuid.UUID(text).bytes == event_uuid(text.upper())


@given(st.text(max_size=60))
def test_any_other_event_id_gets_a_uuid_of_its_own(text):
    assert len(event_uuid(text)) == 16
    assert event_uuid(text) == event_uuid(text)
    assert event_uuid(text) != event_uuid(text + "x")


@pytest.mark.parametrize(
    "text", ["641ad7d5-422b-4228-815e-34fc4948ceg9", "641ad7d5- 22b-4228-815e-34fc4948ce09"]
)
def test_what_only_looks_like_a_uuid_is_text(text):
    assert event_uuid(text)[6] >> 4 == 5


KEYS = ["id", "action", "timestamp", "target", "repository", "digest", "size", "tag", "urls"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)


# Hypothesis also tries texts of our own code, an empty envelope among them.
@given(st.binary(max_size=200).filter(lambda body: b"events" not in body))
def test_random_bytes_are_no_envelope_and_break_nothing(body):
    # Hypothesis also tries literals of our own code, and one of them is an empty envelope.
    assume(b'"events"' not in body)
    with pytest.raises(BadEnvelope):
        split_envelope(body)


@given(JSON)
def test_random_json_is_refused_with_a_reason(event):
    envelope = split_envelope(json.dumps({"events": [event]}).encode())
    assert envelope.good == []
    assert envelope.refused[0].reason


@given(st.sampled_from(sorted(EVENT)), JSON)
def test_an_event_with_one_random_part_is_taken_or_refused_and_breaks_nothing(key, value):
    envelope = split_envelope(wire(changed(**{key: value})))
    assert envelope.good or envelope.refused


@given(st.sampled_from(sorted(EVENT["target"])), JSON)
def test_a_target_with_one_random_part_is_taken_or_refused_and_breaks_nothing(key, value):
    envelope = split_envelope(wire(changed(**{f"target__{key}": value})))
    assert envelope.good or envelope.refused
