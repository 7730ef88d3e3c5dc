"""Quota events as webhook, Slack and Alertmanager take them."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from alerts.render import (
    LEVEL_STAYS,
    BadEventError,
    BadSecretError,
    alertmanager,
    read_event,
    repeated,
    sentence,
    sign,
    signing_key,
    slack,
    webhook,
)
from quota.events import KINDS

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def event(kind="usage.level_changed", subject="acme", **data):
    raw = json.dumps(
        {
            "specversion": "1.0",
            "id": "e-1",
            "type": f"io.registryquota.{kind}.v1",
            "subject": subject,
            "time": "2026-01-02T03:04:00Z",
            "data": data,
        }
    ).encode()
    return read_event(raw), raw, NOW


def level(previous, now):
    return event(level=now, previous_level=previous, ratio=0.91, usage_bytes=91, quota_bytes=100)


def test_the_signature_is_that_of_the_specifications_own_example():
    body = b'{"test": 2432232314}'
    signed = sign(signing_key(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_webhook_carries_the_event_as_it_is_with_a_summary_and_the_three_headers():
    delivery = webhook(SECRET)(*level("warning", "critical"))
    body = json.loads(delivery.body)
    assert body.pop("summary") == (
        "acme: usage is critical (was warning): 91 % of the quota, 91 B of 100 B"
    )
    assert body == json.loads(level("warning", "critical")[1])
    assert delivery.headers["webhook-id"] == "e-1"
    assert delivery.headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert delivery.headers["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "not base64!", "x" * 200])
def test_a_secret_that_is_none_is_refused_with_how_to_make_one(secret):
    with pytest.raises(BadSecretError, match="openssl rand"):
        webhook(secret)


def test_a_generated_secret_works():
    assert signing_key("whsec_" + base64.b64encode(bytes(32)).decode()) == bytes(32)


def test_slack_gets_a_sentence_in_which_names_have_no_markup():
    text = json.loads(slack(*event("build.denied", "a<!here>&", message="<b>")).body)["text"]
    assert text == "*a&lt;!here&gt;&amp;*: &lt;b&gt;"
    assert "critical (was warning): 91 %" in slack(*level("warning", "critical")).body.decode()


@pytest.mark.parametrize(
    ("previous", "now", "expected"),
    [
        ("ok", "warning", [("warning", True)]),
        ("critical", "critical", [("critical", True)]),
        ("warning", "critical", [("warning", False), ("critical", True)]),
        ("critical", "ok", [("critical", False)]),
    ],
)
def test_alertmanager_gets_the_new_level_and_the_end_of_the_old_one(previous, now, expected):
    alerts = json.loads(alertmanager(*level(previous, now)).body)
    found = [(alert["labels"]["severity"], alert["endsAt"] > alert["startsAt"]) for alert in alerts]
    assert found == expected
    assert {alert["labels"]["workspace"] for alert in alerts} == {"acme"}


def test_an_alert_ends_after_its_delivery_however_late_that_comes():
    """An end that is past is none that anybody would be told of."""
    late = NOW + timedelta(days=3)
    for kind, data, stays in (
        ("build.denied", {"message": "m"}, timedelta(hours=1)),
        ("usage.level_changed", {"level": "exceeded", "previous_level": "ok"}, LEVEL_STAYS),
    ):
        read, raw, _now = event(kind, **data)
        (alert,) = json.loads(alertmanager(read, raw, late).body)
        assert datetime.fromisoformat(alert["startsAt"]) == read.time
        assert datetime.fromisoformat(alert["endsAt"]) == late + stays
    read, raw, _now = level("critical", "ok")
    (ended,) = json.loads(alertmanager(read, raw, late).body)
    assert datetime.fromisoformat(ended["endsAt"]) == read.time
    # A clock that is behind ours: an alert that begins after its end would be refused.
    (ended,) = json.loads(alertmanager(read, raw, NOW - timedelta(days=1)).body)
    assert ended["startsAt"] == ended["endsAt"]


def test_what_stands_is_said_again_as_it_was_with_a_later_end():
    first, raw, _now = level("ok", "critical")
    later = NOW + timedelta(hours=5)
    (told,) = json.loads(alertmanager(first, raw, NOW).body)
    [delivery] = repeated([first], later)
    (again,) = json.loads(delivery.body)
    assert datetime.fromisoformat(again.pop("endsAt")) == later + LEVEL_STAYS
    told.pop("endsAt")
    assert again == told
    assert [len(json.loads(part.body)) for part in repeated([first] * 401, later)] == [200, 200, 1]
    assert repeated([], later) == []


def test_sizes_are_readable_and_what_is_not_known_is_no_none():
    data = {
        "freed_bytes": 0,
        "usage_bytes": 5 * 1024**3,
        "quota_bytes": 10 * 1024**3,
        "target_reached": False,
        "reason": None,
    }
    text = sentence("cleanup.insufficient", data)
    assert text == "cleanup freed 0 B, which is not enough: 5 GiB of 10 GiB are used"


HAPPENED: dict[str, dict[str, Any]] = {
    "image.recorded": {"repository": "acme/api", "tags": ["1"]},
    "image.removed": {"repository": "acme/api", "tags": []},
    "image.unreadable": {"repository": "acme/api", "tags": ["1"], "reason": "404 for a layer"},
    "usage.level_changed": {
        "level": "critical",
        "previous_level": "ok",
        "usage_bytes": 9,
        "quota_bytes": 10,
    },
    "cleanup.finished": {"freed_bytes": 1024, "target_reached": True},
    "cleanup.insufficient": {"freed_bytes": 0, "usage_bytes": 9, "quota_bytes": 10},
    "build.denied": {"message": "no room"},
    "drift.detected": {"cause": "reconcile", "drift_bytes": -2048, "found": 1, "forgotten": 2},
    "size.mismatch": {"declared_bytes": 1, "stored_bytes": 2, "digest": "sha256:0"},
    "gc.verified": {"collected_bytes": 1024, "predicted_bytes": 2048, "present_bytes": 1024},
    "log.broken": {"topic": "registry.notifications", "partitions": [{"kind": "ends_before"}]},
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_event_that_there_is_says_what_happened(kind):
    """Its type alone sends whoever gets it in Slack to the logs."""
    text = sentence(kind, HAPPENED[kind])
    assert text != kind.replace(".", " ").replace("_", " ")
    assert not re.search(r"None|\?|\d{4}", text), text
    assert "None" not in sentence(kind, {})


def test_what_cannot_be_pulled_and_what_differed_is_told_with_the_reason():
    assert sentence("image.unreadable", HAPPENED["image.unreadable"]) == (
        "acme/api (1) cannot be pulled: 404 for a layer; push it again"
    )
    assert sentence("drift.detected", HAPPENED["drift.detected"]) == (
        "the registry was compared: 1 found, 2 forgotten, usage changed by -2 KiB"
    )
    assert "verify" in sentence("drift.detected", {"cause": "recount", "drift_bytes": 1})
    assert sentence("gc.verified", HAPPENED["gc.verified"]) == (
        "the registry's collection freed 1 KiB of 2 KiB; 1 KiB are still there"
    )


def test_every_kind_of_event_has_a_sentence_and_an_alert():
    for kind in (
        "image.recorded",
        "image.removed",
        "usage.level_changed",
        "cleanup.finished",
        "cleanup.insufficient",
        "build.denied",
        "drift.detected",
        "size.mismatch",
        "something.new",
    ):
        assert json.loads(slack(*event(kind)).body)["text"]
        assert json.loads(alertmanager(*event(kind)).body)[-1]["labels"]["alertname"]


@pytest.mark.parametrize(
    "raw", [None, b"", b"[]", b"\xff", b"{}", b'{"id": 1}', b"[" * 100_000, b'{"id": ""}']
)
def test_what_is_no_event_is_told_so(raw):
    with pytest.raises(BadEventError):
        read_event(raw)


def test_an_id_that_could_break_a_header_is_no_id():
    with pytest.raises(BadEventError):
        read_event(
            b'{"id": "a\\nb", "type": "t", "subject": "s", "time": "2026-01-02T03:04:00Z", "data": {}}'
        )


def test_a_message_leads_to_the_workspace_where_the_address_is_known():
    raised = event(subject="a/b", level="warning", previous_level="ok")
    text = json.loads(slack(*raised, base="https://quota.example").body)["text"]
    assert text.startswith("*<https://quota.example/workspaces/a%2Fb|a/b>*: ")
    (alert,) = json.loads(alertmanager(*raised, base="https://quota.example").body)
    assert alert["generatorURL"] == "https://quota.example/workspaces/a%2Fb"
    assert "generatorURL" not in json.loads(alertmanager(*raised).body)[0]
