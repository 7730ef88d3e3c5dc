"""A process whose clock is wrong: the earlier of two clocks counts, and nothing is forgotten."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger.clock import MOST_APART, ServiceClock
from quota.retention import Retention

WRONG = [timedelta(days=500), timedelta(seconds=61), -timedelta(seconds=61), -timedelta(days=500)]
RIGHT = [timedelta(0), timedelta(seconds=55), -timedelta(seconds=55)]


def clock_of(pool, wrong_by):
    return ServiceClock(pool, own=lambda: datetime.now(UTC) + wrong_by)


@pytest.mark.parametrize("wrong_by", [*WRONG, *RIGHT])
async def test_the_earlier_clock_counts_and_a_minutes_difference_is_told(pool, wrong_by):
    clock = clock_of(pool, wrong_by)
    assert await clock.agrees() == (abs(wrong_by) <= MOST_APART)
    assert abs(clock.ahead - wrong_by) < timedelta(seconds=5)
    earlier = datetime.now(UTC) + min(wrong_by, timedelta(0))
    assert abs(clock() - earlier) < timedelta(seconds=5)


@pytest.mark.parametrize("wrong_by", WRONG)
async def test_what_forgets_refuses_by_a_wrong_clock(pool, wrong_by):
    await pool.execute("INSERT INTO workspaces (name, quota_bytes) VALUES ('acme', 1)")
    await pool.execute(
        "INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes, usage_before,"
        " promised_bytes, started_at)"
        " SELECT gen_random_uuid(), id, 'finished', 'c', 'o', 1, 1, 1, now() FROM workspaces"
    )
    clock = clock_of(pool, wrong_by)
    keep = {"history": timedelta(days=400), "events": timedelta(days=90)}
    retention = Retention(pool, **keep, clock=clock, agrees=clock.agrees)
    assert await retention.tidy() == {}
    assert await pool.fetchval("SELECT count(*) FROM cleanup_runs") == 1
