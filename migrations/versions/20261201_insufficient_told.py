"""what was last told of a workspace whose cleanups do not suffice

Revision ID: 20261201_insufficient_told
Revises: 20261201_unread_artifacts
Create Date: 2026-12-01 01:45:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_insufficient_told"
down_revision = "20261201_unread_artifacts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("insufficient_reason", sa.Text(), comment="why cleanups do not suffice, as told"),
        sa.Column("insufficient_level", sa.Text()),
        sa.Column("insufficient_told_at", sa.DateTime(timezone=True)),
    ):
        op.add_column("workspaces", column)


def downgrade() -> None:
    for column in ("insufficient_told_at", "insufficient_level", "insufficient_reason"):
        op.drop_column("workspaces", column)
