"""stored plans, take-over of runs and undo

Revision ID: 20261125_cleanup
Revises: 20261125_recounts
Create Date: 2026-11-25 04:20:00
"""

import sqlalchemy as sa
from alembic import op

from migrations import online

revision = "20261125_cleanup"
down_revision = "20261125_recounts"
branch_labels = None
depends_on = None

# Rules of the linter that do not hold here, with the reason.
exceptions = {"ban-drop-constraint": "the same statement puts a wider one in its place"}

_STATES = "state in ('planned', 'deleting', 'deleted', 'failed', 'skipped', 'restored')"
_STATES_BEFORE = "state in ('planned', 'deleted', 'failed', 'skipped', 'restored')"


def upgrade() -> None:
    op.create_table(
        "cleanup_plans",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column(
            "steps",
            sa.LargeBinary(),
            nullable=False,
            comment="what would go, to be checked again",
        ),
        sa.Column(
            "document", sa.LargeBinary(), nullable=False, comment="the answer as it was given"
        ),
        sa.Column("run_id", sa.Uuid(), nullable=True, comment="the run that carried it out"),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("cleanup_plans_workspace_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("cleanup_plans_pkey")),
        if_not_exists=True,
    )
    op.create_index(
        "cleanup_plans_workspace_id_made_at_idx",
        "cleanup_plans",
        ["workspace_id", "made_at"],
        if_not_exists=True,
    )
    for column in (
        sa.Column(
            "epoch",
            sa.Integer(),
            server_default="1",
            nullable=False,
            comment="one more with each owner",
        ),
        sa.Column("incoming_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "incoming_digests",
            sa.LargeBinary(),
            nullable=True,
            comment="packed: held layers of the build it is for",
        ),
        sa.Column(
            "plan_id", sa.Uuid(), nullable=True, comment="the stored plan that it carries out"
        ),
        sa.Column("target_reached", sa.Boolean(), nullable=True),
        sa.Column("warnings", sa.JSON(), server_default="[]", nullable=False),
    ):
        op.add_column("cleanup_runs", column, if_not_exists=True)
    op.add_column(
        "cleanup_items",
        sa.Column(
            "unit",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="its image and what goes along",
        ),
        if_not_exists=True,
    )
    op.add_column(
        "cleanup_items",
        sa.Column(
            "gone_ns",
            sa.BigInteger(),
            server_default="-1",
            nullable=False,
            comment="the registry's clock after its DELETE: a newer push cannot have been hit by it",
        ),
        if_not_exists=True,
    )
    online.replace_check("cleanup_items_state_known_check", "cleanup_items", _STATES)
    online.create_index("cleanup_runs_started_at_idx", "cleanup_runs", ["started_at"])
    online.create_index(
        "cleanup_items_repository_id_digest_idx", "cleanup_items", ["repository_id", "digest"]
    )
    online.create_index(
        "cleanup_items_deleted_idx", "cleanup_items", ["done_at"], where="state = 'deleted'"
    )


def downgrade() -> None:
    op.drop_index("cleanup_items_deleted_idx", table_name="cleanup_items")
    op.drop_index("cleanup_items_repository_id_digest_idx", table_name="cleanup_items")
    op.drop_constraint(op.f("cleanup_items_state_known_check"), "cleanup_items", type_="check")
    op.execute("UPDATE cleanup_items SET state = 'failed' WHERE state = 'deleting'")
    op.create_check_constraint(
        op.f("cleanup_items_state_known_check"), "cleanup_items", _STATES_BEFORE
    )
    op.drop_column("cleanup_items", "gone_ns")
    op.drop_column("cleanup_items", "unit")
    op.drop_index("cleanup_runs_started_at_idx", table_name="cleanup_runs")
    for name in (
        "warnings",
        "target_reached",
        "plan_id",
        "incoming_digests",
        "reserved_bytes",
        "incoming_bytes",
        "epoch",
    ):
        op.drop_column("cleanup_runs", name)
    op.drop_table("cleanup_plans")
