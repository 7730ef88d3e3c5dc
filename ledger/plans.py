"""Stored cleanup plans: shown to somebody, and carried out only as they were shown."""

from datetime import datetime
from uuid import UUID

import msgspec

from runtime.postgres import Connection

MOST_KEPT = 20
"""Newest plans kept of a workspace."""
MOST_OF_A_CALLER = 50
"""Newest plans kept of whoever asked for them, in all workspaces together."""
MOST_OF_A_CALLER_HERE = 10
"""The same in one workspace: one caller alone pushes out nobody else's."""

ADD_PLAN = """
INSERT INTO cleanup_plans (id, workspace_id, steps, document, made_at, expires_at, made_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

# What was carried out stays with its run.
FORGET_PLANS_OF = """
DELETE FROM cleanup_plans p
WHERE p.made_by = $1 AND p.run_id IS NULL AND ($2::int IS NULL OR p.workspace_id = $2) AND p.id NOT IN (
  SELECT newest.id FROM cleanup_plans newest
  WHERE newest.made_by = $1 AND newest.run_id IS NULL
    AND ($2::int IS NULL OR newest.workspace_id = $2)
  ORDER BY newest.made_at DESC LIMIT $3)
"""

ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(5921, 13)"

FORGET_PLANS = """
DELETE FROM cleanup_plans p
WHERE p.workspace_id = $1 AND p.run_id IS NULL AND p.id NOT IN (
  SELECT newest.id FROM cleanup_plans newest
  WHERE newest.workspace_id = $1 AND newest.run_id IS NULL ORDER BY newest.made_at DESC LIMIT $2)
"""


PLAN = """
SELECT id, steps, document, run_id, made_at, expires_at FROM cleanup_plans
WHERE workspace_id = $1 AND id = $2
"""

USE_PLAN = "UPDATE cleanup_plans SET run_id = $2 WHERE id = $1 AND run_id IS NULL RETURNING id"


class StoredPlan(msgspec.Struct, frozen=True):
    """A plan as it was stored. `steps` and `document` are JSON; times are UTC."""

    id: UUID
    steps: bytes
    document: bytes
    run_id: UUID | None
    """The run that carried it out."""
    made_at: datetime
    expires_at: datetime


async def add_plan(
    connection: Connection, workspace_id: int, plan: StoredPlan, made_by: str
) -> None:
    """Store a plan; the caller's oldest ones make room, then the workspace's. Within a transaction."""
    await connection.execute(
        ADD_PLAN,
        plan.id,
        workspace_id,
        plan.steps,
        plan.document,
        plan.made_at,
        plan.expires_at,
        made_by,
    )
    # Two at once would each count without the other's.
    await connection.execute(ONE_AT_A_TIME)
    await connection.execute(FORGET_PLANS_OF, made_by, workspace_id, MOST_OF_A_CALLER_HERE)
    await connection.execute(FORGET_PLANS_OF, made_by, None, MOST_OF_A_CALLER)
    await connection.execute(FORGET_PLANS, workspace_id, MOST_KEPT)


async def plan_of(connection: Connection, workspace_id: int, plan_id: UUID) -> StoredPlan | None:
    """A workspace's plan, expired or not, for as long as it is kept."""
    row = await connection.fetchrow(PLAN, workspace_id, plan_id)
    return None if row is None else StoredPlan(*row.values())


async def use_plan(connection: Connection, plan_id: UUID, run_id: UUID) -> bool:
    """Mark a plan as carried out by a run; False when it was before."""
    return await connection.fetchval(USE_PLAN, plan_id, run_id) is not None
