"""what a platform says of an image that nobody has read yet

Revision ID: 20261125_claims
Revises: 20261125_cleanup
Create Date: 2026-11-25 04:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261125_claims"
down_revision = "20261125_cleanup"
branch_labels = None
depends_on = None

_INDEX = "manifests_pending_idx"


def _pending(condition: str) -> None:
    op.drop_index(_INDEX, table_name="manifests")
    op.create_index(
        _INDEX,
        "manifests",
        ["repository_id", "digest"],
        postgresql_where=sa.text(condition),
    )


def upgrade() -> None:
    op.add_column(
        "manifests",
        sa.Column(
            "claimed_ns",
            sa.BigInteger(),
            server_default="-1",
            nullable=False,
            comment="from 0 on: blobs is what a platform said, nobody has read it yet",
        ),
    )
    _pending("present AND (blobs IS NULL OR claimed_ns >= 0)")


def downgrade() -> None:
    _pending("present AND blobs IS NULL")
    op.drop_column("manifests", "claimed_ns")
