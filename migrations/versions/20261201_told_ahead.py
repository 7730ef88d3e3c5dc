"""what was told ahead of its time

Revision ID: 20261201_told_ahead
Revises: 20261201_insufficient_told
Create Date: 2026-12-01 01:36:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_told_ahead"
down_revision = "20261201_insufficient_told"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("manifests", "tags"):
        op.add_column(
            table,
            sa.Column(
                "odd",
                sa.LargeBinary(),
                nullable=True,
                comment="what was told ahead of its time, or contradicted (ahead.py)",
            ),
            if_not_exists=True,
        )


def downgrade() -> None:
    for table in ("manifests", "tags"):
        op.drop_column(table, "odd")
