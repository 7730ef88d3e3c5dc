"""What the status makes of the receiver's own counters, also where several answer at one address."""

from prometheus_client import generate_latest

from quota.receiver import ReceiverWatch, _counted
from runtime.settings import Settings
from webhook_receiver.metrics import ReceiverMetrics


def exposition(*statuses, started=1000.0):
    metrics = ReceiverMetrics(lambda: 0, started=started)
    for status in statuses:
        metrics.answered(status)
    return _counted(generate_latest(metrics.registry).decode())


def test_the_receivers_own_names_are_understood():
    counted = exposition(202, 202, 401, 503)
    assert counted.started == 1000.0
    assert (counted.answers["202"], counted.answers["401"], counted.answers["503"]) == (2, 1, 1)


def test_lately_is_what_was_added_in_the_last_minutes_by_the_same_process():
    watch = ReceiverWatch(Settings())
    old = [401] * 7
    assert watch._lately(0.0, exposition(*old))["401"] == 0
    assert watch._lately(60.0, exposition(*old, 401))["401"] == 1
    other = exposition(*[401] * 50, started=2000.0)
    assert watch._lately(61.0, other)["401"] == 0, "another process is counted for itself"
    assert watch._lately(200.0, exposition(*old, 401, 503))["503"] == 1
    assert watch._lately(1000.0, exposition(*old, 401, 503))["503"] == 0
