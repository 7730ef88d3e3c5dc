"""Deliveries are summed up now and then: every one in exactly one line, and no line about nothing."""

from collections import Counter

import structlog

from tests.support.waiting import wait_until
from webhook_receiver.messages import Arrival, Message, Reason
from webhook_receiver.metrics import ReceiverMetrics
from webhook_receiver.summary import summing_up


def deliver(metrics):
    event = Message("registry.notifications", None, b"", [], "push")
    letter = Arrival("default", 0).dead_letter(b"", Reason.BAD_EVENT, "why")
    metrics.stored([event, letter])
    metrics.acknowledged(0.002)
    metrics.answered(202)


def summed(lines):
    total: Counter[str] = Counter()
    for line in lines:
        assert (line["event"], line["log_level"]) == ("deliveries", "info")
        total.update({key: count for key, count in line.items() if isinstance(count, int)})
    return total


async def test_every_delivery_is_in_one_line():
    metrics = ReceiverMetrics(lambda: 0)
    with structlog.testing.capture_logs() as lines:
        async with summing_up(metrics, every=0.01):
            deliver(metrics)
            await wait_until(lambda: lines, 5)
            deliver(metrics)
            deliver(metrics)
            await wait_until(lambda: len(lines) == 2, 5)
            metrics.answered(503)
    assert len(lines) == 3
    assert summed(lines) == {
        "answered_202": 3,
        "answered_503": 1,
        "stored_push": 3,
        "stored_bad_event": 3,
    }


async def test_what_came_last_is_told_at_the_end_and_nothing_is_not_told():
    metrics = ReceiverMetrics(lambda: 0)
    with structlog.testing.capture_logs() as lines:
        async with summing_up(metrics):
            deliver(metrics)
        async with summing_up(ReceiverMetrics(lambda: 0), every=0.001):
            pass
    assert len(lines) == 1
