"""who asked for a plan

Revision ID: 20261201_plans_made_by
Revises: 20261201_own_marks
Create Date: 2026-12-01 14:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_plans_made_by"
down_revision = "20261201_own_marks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "cleanup_plans",
        sa.Column("made_by", sa.Text(), nullable=True, comment="who asked for it"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_column("cleanup_plans", "made_by")
