"""When the next pass in the background begins."""

from datetime import UTC, datetime, timedelta

from ledger.reconcile import Pass
from quota.reconcile_schedule import due_at

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INTERVAL = timedelta(hours=6)


def a_pass(state: str, started: datetime, changed: datetime) -> Pass:
    return Pass(1, None, False, state, "", 0, 0, None, started, changed, None)


def test_after_a_finished_pass_the_interval_give_or_take_a_tenth():
    last = a_pass("finished", NOON, NOON + timedelta(hours=1))
    assert due_at(last, NOON, INTERVAL, 0.0) == NOON + INTERVAL * 0.9
    assert due_at(last, NOON, INTERVAL, 1.0) == NOON + INTERVAL * 1.1


def test_the_first_pass_comes_soon_but_not_with_the_start():
    for jitter in (0.0, 0.5, 1.0):
        due = due_at(None, NOON, INTERVAL, jitter)
        assert NOON + timedelta(minutes=15) < due <= NOON + timedelta(minutes=36)


def test_one_that_ended_early_is_taken_up_again_soon():
    stopped = a_pass("stopped", NOON - timedelta(hours=2), NOON + timedelta(hours=1))
    due = due_at(stopped, NOON, INTERVAL, 0.0)
    assert NOON + timedelta(hours=1) < due < NOON + timedelta(hours=2)
