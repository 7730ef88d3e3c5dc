"""recounts: what the newest independent count of each workspace found

Revision ID: 20261125_recounts
Revises: 20261125_builds
Create Date: 2026-11-25 04:20:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261125_recounts"
down_revision = "20261125_builds"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recounts",
        sa.Column("workspace_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("drift_bytes", sa.BigInteger(), nullable=False, comment="counter minus recount"),
        sa.Column("wrong_digests", sa.Integer(), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"],
            ["workspaces.id"],
            name=op.f("recounts_workspace_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("recounts_pkey")),
    )


def downgrade() -> None:
    op.drop_table("recounts")
