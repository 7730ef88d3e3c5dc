"""The consumer's background workers, with a clock that a test moves."""

from datetime import UTC, datetime

from consumer.metrics import ConsumerMetrics
from consumer.settling import SettlingWorker
from runtime.lifecycle import Stopping
from tests.support import ledgers


class Clock:
    """Stands still until `now` is set."""

    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


def worker(pool, client, clock):
    """Settles what is due by that clock."""
    return SettlingWorker(
        pool=pool,
        recorder=ledgers.recorder(pool),
        client=client,
        metrics=ConsumerMetrics(),
        stopping=Stopping(),
        clock=clock,
    )
