"""What is forgotten with age: some rows at a time, so that nobody waits for it and vacuum keeps up.

The ledger itself (manifests and tags, tombstones too, sizes, observations) is never forgotten: a replay
and an event that comes late need all of it.
"""

from datetime import datetime

import msgspec

from runtime.postgres import Connection

# Published ones only. The oldest ids are looked at and no others: ids follow the order of writing, and
# nothing has an index by time.
EVENTS = """
DELETE FROM outbox event USING (
  SELECT id FROM outbox WHERE published_at IS NOT NULL ORDER BY id LIMIT $2) oldest
WHERE event.id = oldest.id AND event.published_at < $1
"""

# Of each workspace the last row before the moment stays: it says how things were from then on.
USAGE = """
DELETE FROM usage_history old USING (
  SELECT w.id, aged.at
  FROM workspaces w
  CROSS JOIN LATERAL (
    SELECT max(h.at) AS at FROM usage_history h WHERE h.workspace_id = w.id AND h.at <= $1) kept
  CROSS JOIN LATERAL (
    SELECT h.at FROM usage_history h WHERE h.workspace_id = w.id AND h.at < kept.at
    ORDER BY h.at LIMIT $2) aged
  LIMIT $2) forgotten
WHERE old.workspace_id = forgotten.id AND old.at = forgotten.at
"""

# With their items, and the manifests' bytes that undo needs.
RUNS = """
DELETE FROM cleanup_runs WHERE id IN (
  SELECT id FROM cleanup_runs WHERE started_at < $1 AND state <> 'running'
  ORDER BY started_at LIMIT $2)
"""

PLANS = """
DELETE FROM cleanup_plans WHERE id IN (
  SELECT id FROM cleanup_plans WHERE expires_at < $1 LIMIT $2)
"""

RESERVATIONS = """
DELETE FROM reservations WHERE id IN (
  SELECT id FROM reservations WHERE expires_at < $1 LIMIT $2)
"""

# The newest of a kind stays: it is what status and metrics tell of.
PASSES = """
DELETE FROM reconcile_passes WHERE id IN (
  SELECT p.id FROM reconcile_passes p
  WHERE p.finished_at < $1 AND EXISTS (
    SELECT FROM reconcile_passes newer
    WHERE newer.registry = p.registry AND newer.workspace IS NOT DISTINCT FROM p.workspace
      AND newer.id > p.id AND newer.state = 'finished')
  ORDER BY p.id LIMIT $2)
"""

VERIFICATIONS = """
DELETE FROM gc_verifications WHERE id IN (
  SELECT v.id FROM gc_verifications v
  WHERE v.finished_at < $1 AND EXISTS (
    SELECT FROM gc_verifications newer
    WHERE newer.workspace IS NOT DISTINCT FROM v.workspace
      AND newer.started_at > v.started_at AND newer.state = 'finished')
  LIMIT $2)
"""

# One process at a time; another one's turn is as good.
TRY_LEAD = "SELECT pg_try_advisory_xact_lock(5921, 12)"


class Rule(msgspec.Struct, frozen=True):
    """Rows of one kind, and how many of them go at a time."""

    what: str
    statement: str
    at_a_time: int
    """About; a run takes its items along."""


RULES = {
    rule.what: rule
    for rule in (
        Rule("quota events", EVENTS, 5000),
        Rule("usage history", USAGE, 5000),
        Rule("cleanup runs", RUNS, 50),
        Rule("cleanup plans", PLANS, 500),
        Rule("reservations", RESERVATIONS, 5000),
        Rule("reconciliation passes", PASSES, 500),
        Rule("collections verified", VERIFICATIONS, 500),
    )
}


async def forget_some(connection: Connection, rule: Rule, before: datetime) -> int:
    """Delete the oldest rows of one kind that are older than a moment; returns how many.

    As many as `rule.at_a_time`: there may be more. 0 while another process is at it. Use it in a
    transaction of its own.
    """
    if not await connection.fetchval(TRY_LEAD):
        return 0
    status: str = await connection.execute(rule.statement, before, rule.at_a_time)
    return int(status.rpartition(" ")[2])
