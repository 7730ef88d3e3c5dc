"""What doctor makes of the answers it gets."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from cli.doctor import doors, kafka
from cli.doctor.clocks import skew
from cli.doctor.connect import notification_block
from cli.doctor.findings import age, all_fine, failed, ok, skipped, warning
from cli.doctor.kafka import Log, Topic
from cli.doctor.notifications import Heard, heard, judge
from runtime.kafka import NOTIFICATIONS_TOPIC, TOPICS
from runtime.settings import MESSAGE_MAX_BYTES, Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = Settings.model_construct(kafka_bootstrap="kafka:9092", kafka_partitions=12)
GOOD = {
    "cleanup.policy": "delete",
    "max.message.bytes": str(MESSAGE_MAX_BYTES),
    "min.insync.replicas": "1",
    "retention.bytes": "-1",
    "retention.ms": "-1",
}


def topic(name=NOTIFICATIONS_TOPIC, *, partitions=12, replicas=1, leaderless=0, **configs):
    named = {key.replace("_", "."): value for key, value in configs.items()}
    return Topic(name, partitions, replicas, leaderless, GOOD | named)


def judged(*changed, brokers=1):
    """Findings about the topics, when all but `changed` are as they should be."""
    names = {item.name for item in changed}
    rest = [topic(name) for name in TOPICS if name not in names]
    return kafka.judge(SETTINGS, brokers, [*changed, *rest])


def wrong(findings):
    return [(item.state, item.mend) for item in findings if item.state != "ok"]


def test_only_failures_make_it_fail():
    assert all_fine([ok("a", ""), warning("b", "", "x"), skipped("c", "")])
    assert not all_fine([ok("a", ""), failed("b", "", "x")])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 days")],
)
def test_ages_are_said_shortly(seconds, said):
    assert age(seconds) == said


def test_topics_as_migrate_makes_them_are_fine():
    assert wrong(judged()) == []


def test_a_missing_topic_fails():
    [*_, last] = kafka.judge(SETTINGS, 1, [topic(name) for name in TOPICS[:-1]])
    assert last.state == "failed"
    assert last.mend.startswith("run `registry-quota migrate`, which creates it")


@pytest.mark.parametrize(
    ("changed", "state", "mended_by"),
    [
        (topic(partitions=3), "warning", "--partitions 12"),
        (topic(max_message_bytes="1048588"), "failed", "max.message.bytes=9437184"),
        (topic(cleanup_policy="compact,delete"), "failed", "cleanup.policy=delete"),
        (topic(retention_ms="604800000"), "warning", "retention.ms=-1"),
        (topic(retention_bytes="1000"), "warning", "retention.bytes=-1"),
        (topic(TOPICS[1], retention_ms="604800000"), "warning", "retention.ms=-1"),
        (topic(replicas=3), "warning", "min.insync.replicas=2"),
        (topic(min_insync_replicas="2"), "failed", "min.insync.replicas=1"),
        (topic(leaderless=2), "failed", "brokers are down"),
    ],
)
def test_what_is_wrong_with_a_topic_is_told_with_the_remedy(changed, state, mended_by):
    [(found_state, mend)] = wrong(judged(changed))
    assert found_state == state
    assert mended_by in mend


def test_quota_events_may_be_forgotten():
    assert wrong(judged(topic("registry.quota-events", retention_ms="1000"))) == []


def test_one_copy_is_a_risk_only_where_there_could_be_more():
    in_sync = {"min_insync_replicas": "2"}
    findings = judged(*(topic(name, replicas=3, **in_sync) for name in TOPICS[1:]), brokers=3)
    assert [state for state, _ in wrong(findings)] == ["warning"]


def record(age_seconds, source="default", **event):
    return SimpleNamespace(
        value=json.dumps(event).encode(),
        timestamp=(NOW.timestamp() - age_seconds) * 1000,
        headers=[("source", source.encode())],
    )


def push(age_seconds, references=(), source="default"):
    target = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{'0' * 64}",
        "size": 10,
        "repository": "acme/api",
    }
    if references:
        target["references"] = list(references)
    return record(
        age_seconds,
        source,
        id="00000000-0000-0000-0000-000000000000",
        timestamp="2026-03-01T12:00:00Z",
        action="push",
        target=target,
    )


LAYER = {"mediaType": "application/octet-stream", "digest": f"sha256:{'1' * 64}", "size": 5}
EMPTY = Log(ends={}, events=0, dead_letters=0)
SOME = Log(ends={0: 10, 1: 5}, events=15, dead_letters=0)


def test_no_notification_at_all_is_warned_of():
    assert [item.state for item in kafka.arriving(EMPTY)] == ["warning", "ok"]


def told(*records):
    return heard(records, now=NOW.timestamp())


def test_the_newest_notification_and_its_references_are_told():
    known = told(push(600, [LAYER]), push(90, [LAYER]))
    assert known == {"default": Heard(90, 2, 0)}
    notifications, references = judge(15, known, {"default"})
    assert notifications.found == "15 arrived, the newest 1 min ago"
    assert references.state == "ok"


def test_newest_pushes_that_lack_references_are_warned_of_and_counted():
    known = told(push(90), push(600), push(700, [LAYER]), push(800))
    assert known["default"].without_references == 2
    [warned] = [item for item in judge(15, known, set()) if item.state == "warning"]
    assert "the newest 2 manifest pushes came without" in warned.found
    assert "includereferences: true" in warned.mend


def test_references_that_came_back_are_fine():
    known = told(push(90, [LAYER]), push(600), push(700))
    assert [item.state for item in judge(15, known, set())] == ["ok", "ok"]


def test_each_registry_is_told_apart_and_a_silent_one_is_named():
    known = told(push(90, [LAYER]), push(7200, source="edge"))
    findings = judge(15, known, {"default", "edge", "attic"})
    assert (
        findings[0].found
        == "15 arrived, the newest of default 1 min ago, the newest of edge 2 h ago"
    )
    silent, references = findings[1:]
    assert (silent.state, "attic" in silent.found, "for attic" in silent.mend) == (
        "warning",
        True,
        True,
    )
    assert "pushes of edge" in references.found


def test_garbage_in_the_log_says_nothing_about_references():
    garbage = SimpleNamespace(value=b"{", timestamp=NOW.timestamp() * 1000, headers=[])
    assert [item.check for item in judge(15, told(garbage), set())] == ["notifications"]


def test_dead_letters_are_counted():
    log = Log(ends={}, events=1, dead_letters=4)
    [*_, last] = kafka.arriving(log)
    assert (last.state, last.found) == ("warning", "4 could not be processed")
    [*_, last] = kafka.arriving(log, open_dead_letters=1)
    assert last.found.startswith("1 could")
    [*_, last] = kafka.arriving(log, open_dead_letters=0)
    assert last.state == "ok"


@pytest.mark.parametrize(
    ("offset", "state"),
    [
        (0, "ok"),
        (-4, "ok"),
        (4, "ok"),
        (-30, "warning"),
        (30, "warning"),
        (-90, "failed"),
        (90, "failed"),
    ],
)
def test_the_registrys_clock_is_compared_with_ours(offset, state):
    told = (NOW + timedelta(seconds=offset)).replace(microsecond=0)
    finding = skew("the registry's", told, NOW, NOW + timedelta(milliseconds=20))
    assert finding.state == state
    if state != "ok":
        assert ("behind" if offset < 0 else "ahead") in finding.found


def test_a_registry_without_a_clock_is_warned_of():
    assert skew("the registry's", None, NOW, NOW).state == "warning"


def test_what_the_api_says_of_its_parts_is_told_as_it_says_it():
    said = [
        {"name": "lag", "state": "failed", "found": "9 events", "mend": "see the consumer"},
        {"name": "sizes", "state": "unknown", "found": "?", "mend": ""},
        {"name": "receiver", "state": "failed", "found": "asked here directly", "mend": "x"},
    ]
    findings = {item.check: item for item in doors.judge_status({"checks": said})}
    assert (findings["lag"].state, findings["lag"].mend) == ("failed", "see the consumer")
    assert findings["sizes"].state == findings["outbox"].state == "skipped"
    assert "receiver" not in findings
    assert {item.state for item in doors.judge_status(None)} == {"skipped"}


def test_the_block_to_paste_has_address_token_and_switches():
    block = notification_block("http://rq:8080/v1/notifications", 'a"b')
    assert "url: http://rq:8080/v1/notifications" in block
    assert 'Authorization: ["Bearer a\\"b"]' in block
    assert "includereferences: true" in block
    assert "enabled: true" in block
