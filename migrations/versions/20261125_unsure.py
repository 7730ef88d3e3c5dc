"""deletions that no answer came to

Revision ID: 20261125_unsure
Revises: 20261125_hot_references
Create Date: 2026-11-25 10:40:00
"""

import sqlalchemy as sa
from alembic import op

from migrations import online

revision = "20261125_unsure"
down_revision = "20261125_hot_references"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "cleanup_items",
        sa.Column(
            "unsure_bytes",
            sa.BigInteger(),
            nullable=True,
            comment="no answer came to its DELETE, which would free this; null: its outcome is known",
        ),
        if_not_exists=True,
    )
    online.create_index(
        "cleanup_items_unsure_idx", "cleanup_items", ["run_id"], where="unsure_bytes IS NOT NULL"
    )


def downgrade() -> None:
    op.drop_index("cleanup_items_unsure_idx", "cleanup_items", if_exists=True)
    op.drop_column("cleanup_items", "unsure_bytes")
