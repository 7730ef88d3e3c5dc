"""when a tag had come to name its digest at the latest

Revision ID: 20261201_named_latest
Revises: 20261201_unreadable
Create Date: 2026-12-01 11:10:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_named_latest"
down_revision = "20261201_unreadable"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tags",
        sa.Column(
            "latest_ns",
            sa.BigInteger(),
            nullable=True,
            comment="when it did at the latest, where a look tells; else -1",
        ),
    )


def downgrade() -> None:
    op.drop_column("tags", "latest_ns")
