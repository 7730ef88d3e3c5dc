"""how usage went over time

Revision ID: 20261125_usage_history
Revises: 20261125_tokens
Create Date: 2026-11-25 04:20:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261125_usage_history"
down_revision = "20261125_tokens"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_history",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("usage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("quota_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "at", name=op.f("usage_history_pkey")),
        postgresql_with={"fillfactor": "80"},
    )
    # History begins with what is there.
    op.execute(
        """
        INSERT INTO usage_history (workspace_id, at, usage_bytes, quota_bytes)
        SELECT id, date_trunc('minute', now()), usage_bytes, quota_bytes FROM workspaces
        WHERE first_image_at IS NOT NULL OR configured
        """
    )
    # Only now: it locks the table of workspaces, and rows that came after it would wait for those of
    # programs, which wait for that lock.
    op.create_foreign_key(
        op.f("usage_history_workspace_id_fkey"),
        "usage_history",
        "workspaces",
        ["workspace_id"],
        ["id"],
    )


def downgrade() -> None:
    op.drop_table("usage_history")
