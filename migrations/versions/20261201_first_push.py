"""the earliest push of a manifest: what no event can make later

Revision ID: 20261201_first_push
Revises: 20261201_plans_made_by
Create Date: 2026-12-01 14:10:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_first_push"
down_revision = "20261201_plans_made_by"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "manifests",
        sa.Column(
            "first_ns",
            sa.BigInteger(),
            nullable=True,
            comment="earliest push that is known; null: earlier releases",
        ),
    )


def downgrade() -> None:
    op.drop_column("manifests", "first_ns")
