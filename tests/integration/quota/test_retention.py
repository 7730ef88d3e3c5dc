"""What is older than it is kept goes, in batches; what is still needed stays however old it is."""

from datetime import UTC, datetime, timedelta

import pytest_asyncio

from ledger import retention
from quota.retention import Retention

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

FILL = """
INSERT INTO workspaces (name, quota_bytes) VALUES ('busy', 1), ('idle', 1);

-- Day by day, 500 days back from $NOW, twenty-five events a day; one is not published yet.
INSERT INTO outbox (event_id, workspace_id, workspace, type, data, occurred_at, published_at)
SELECT gen_random_uuid(), 1, 'busy', 't', '{}', moment, nullif(moment, $NOW - interval '500 days')
FROM generate_series(0, 12500) n, LATERAL (SELECT $NOW - interval '500 days' + n * interval '57.6 min')
  AS m(moment);

INSERT INTO usage_history (workspace_id, at, usage_bytes, quota_bytes)
SELECT 1, $NOW - day * interval '1 day', day, 1 FROM generate_series(0, 500) day
UNION ALL SELECT 2, $NOW - interval '450 days', 7, 1
UNION ALL SELECT 2, $NOW - interval '460 days', 6, 1;

INSERT INTO repositories (registry, name, workspace_id, app) VALUES ('default', 'busy/a', 1, 'a');
INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes, usage_before,
                          promised_bytes, started_at)
SELECT gen_random_uuid(), 1, CASE day WHEN 500 THEN 'running' ELSE 'finished' END, 'hook', 'o', 1, 1, 1,
       $NOW - day * interval '1 day' FROM generate_series(1, 500) day;
INSERT INTO cleanup_items (run_id, position, repository_id, digest, app, tags, code, why,
                           promised_bytes, push_ns)
SELECT id, n, 1, 'x', 'a', '[]', 'c', 'w', 1, 1 FROM cleanup_runs, generate_series(1, 3) n;

INSERT INTO cleanup_plans (id, workspace_id, steps, document, made_at, expires_at)
SELECT gen_random_uuid(), 1, '', '', $NOW, $NOW - hour * interval '1 hour'
FROM generate_series(-1, 30) hour;

INSERT INTO reservations (id, workspace_id, build_id, bytes, expires_at)
SELECT gen_random_uuid(), 2, hour::text, 1, $NOW - hour * interval '1 hour'
FROM generate_series(-1, 30) hour;

INSERT INTO reconcile_passes (registry, workspace, confirm_now, state, started_at, changed_at, finished_at)
SELECT 'default', NULL, false, 'finished', moment, moment, moment
FROM generate_series(500, 1, -1) day, LATERAL (SELECT $NOW - day * interval '1 day') AS m(moment)
UNION ALL SELECT 'default', 'idle', true, 'finished', moment, moment, moment
FROM (SELECT $NOW - interval '480 days') AS m(moment);
INSERT INTO reconcile_drift
SELECT id, 1, 1, 0, 0, 0, 0, 0 FROM reconcile_passes WHERE workspace IS NULL;

INSERT INTO gc_verifications (id, state, counts, workspaces, started_at, changed_at, finished_at)
SELECT gen_random_uuid(), 'finished', '{}', '{}', moment, moment, moment
FROM generate_series(401, 410) day, LATERAL (SELECT $NOW - day * interval '1 day') AS m(moment);
"""


@pytest_asyncio.fixture
async def filled(pool):
    await pool.execute(FILL.replace("$NOW", f"'{NOW.isoformat()}'::timestamptz"))
    return pool


def keeping(pool, *, history=400, events=90):
    return Retention(
        pool,
        history=timedelta(days=history),
        events=timedelta(days=events),
        clock=lambda: NOW,
        agrees=agreed,
    )


async def agreed():
    return True


async def test_every_kind_of_row_goes_when_it_is_older_than_it_is_kept(filled):
    gone = await keeping(filled).tidy()
    left = {
        table: await filled.fetchval(f"SELECT count(*) FROM {table}")
        for table in ("usage_history", "cleanup_runs", "cleanup_items", "reconcile_passes")
    }
    oldest = await filled.fetchval("SELECT min(published_at) FROM outbox")
    assert NOW - timedelta(days=90) <= oldest < NOW - timedelta(days=89)
    # 400 days, today, and the last row before them of the workspace where nothing happened since.
    assert left["usage_history"] == 401 + 1
    # A run that is not finished is somebody's to take over.
    assert left["cleanup_runs"] == 366 + 1
    assert left["cleanup_items"] == 3 * left["cleanup_runs"]
    # The only pass over one workspace stays.
    assert left["reconcile_passes"] == 400 + 1
    assert gone == {
        "quota events": 12_500 - 90 * 25 - 1,
        "usage history": 100 + 1,
        "cleanup runs": 500 - 367,
        "cleanup plans": 6,
        "reservations": 6,
        "reconciliation passes": 100,
        "collections verified": 9,
    }
    assert not any((await keeping(filled).tidy()).values()), "all of it in one go"


async def test_what_nobody_has_published_yet_stays(filled):
    await keeping(filled, events=1).tidy()
    waiting = await filled.fetch("SELECT occurred_at FROM outbox WHERE published_at IS NULL")
    assert [row["occurred_at"] for row in waiting] == [NOW - timedelta(days=500)]


async def test_a_batch_is_bounded_and_one_process_is_at_it_at_a_time(filled):
    rule = retention.RULES["quota events"]
    async with filled.acquire() as one, filled.acquire() as other:
        async with one.transaction():
            assert await retention.forget_some(one, rule, NOW) == rule.at_a_time
            async with other.transaction():
                assert await retention.forget_some(other, rule, NOW) == 0
        async with other.transaction():
            assert await retention.forget_some(other, rule, NOW) > 0


async def test_the_ledger_itself_is_forgotten_by_no_rule():
    kept = ("manifests", "tags", "observations", "stored_blobs", "workspace_digests", "workspaces")
    for rule in retention.RULES.values():
        deleted = rule.statement.split("DELETE FROM ")[1].split()[0]
        assert deleted not in kept, rule.what
