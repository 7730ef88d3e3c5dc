"""What is told of a batch: a line each while there are few, numbers when there are many."""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consumer.loop import NotificationConsumer
from consumer.metrics import ConsumerMetrics
from consumer.outcomes import MOST_LINES, Decoded, line, summary
from consumer.translate import facts_of
from registry.notifications import decode_event
from tests.support.deliveries import DIGEST, event

DEBUG = 10


def record(number, key=b"acme"):
    return cast("Any", SimpleNamespace(key=key, partition=number % 3, offset=number))


def read(number, **fields):
    notification = decode_event(json.dumps(event(event_id=f"id-{number}", **fields)).encode())
    return Decoded(record(number), facts_of("default", notification), notification)


def push(number):
    return read(number)


def blob(number):
    return read(number, mediaType="application/octet-stream", tag="", references=[])


def unreadable(number):
    return Decoded(record(number, b"other"), None, refused=True)


def test_a_batch_in_numbers_accounts_for_every_event():
    decoded = [push(1), push(2), blob(3), unreadable(4)]
    assert summary(decoded) == {
        "events": 4,
        "workspaces": 2,
        "partitions": [0, 1, 2],
        "push_recorded": 3,
        "unknown_dead_letter": 1,
    }


def test_a_line_names_the_event_the_workspace_and_the_digest():
    found = line(push(7))
    assert found["event_id"] == "id-7"
    assert (found["workspace"], found["digest"], found["result"]) == ("acme", DIGEST, "recorded")
    assert line(unreadable(4)) == {"workspace": "other", "partition": 1, "offset": 4}


class Written:
    """Instead of the log."""

    def __init__(self, level):
        self._level = level
        self.lines: list[tuple[str, str]] = []
        self.summed: list[dict[str, Any]] = []

    def wants(self, level=20):
        return level >= self._level

    def write(self, lines, *, level="info"):
        self.lines += [(level, item["event_id"]) for item in lines]

    def info(self, name, **about):
        assert name == "notifications"
        self.summed.append(about)


@pytest.fixture
def tell(monkeypatch):
    """What a consumer tells of a batch, from a level on."""

    def told(decoded, level):
        written = Written(level)
        monkeypatch.setattr("consumer.loop.log", written)
        consumer = SimpleNamespace(_metrics=ConsumerMetrics(), _outcomes=written)
        NotificationConsumer._tell(cast("Any", consumer), decoded)
        return written

    return told


@pytest.mark.parametrize("pushes", [1, MOST_LINES, MOST_LINES + 1, 500])
def test_pushes_have_a_line_each_or_all_together_one_and_blobs_none(tell, pushes):
    written = tell([*(push(number) for number in range(pushes)), blob(0), unreadable(1)], 20)
    if pushes <= MOST_LINES:
        assert Counter(written.lines) == Counter(("info", f"id-{n}") for n in range(pushes))
        assert written.summed == []
    else:
        assert written.lines == []
        (summed,) = written.summed
        assert (summed["events"], summed["push_recorded"]) == (pushes + 2, pushes + 1)


def test_debugging_has_a_line_for_everything_that_could_be_read(tell):
    written = tell([*(push(number) for number in range(MOST_LINES + 1)), blob(99)], DEBUG)
    assert len(written.lines) == MOST_LINES + 2
    assert written.lines[-1] == ("debug", "id-99")
    assert written.summed == []


def test_a_quiet_log_has_neither(tell):
    assert tell([blob(1), unreadable(2)], 20).lines == []
