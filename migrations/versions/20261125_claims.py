"""what a platform says of an image that nobody has read yet

Revision ID: 20261125_claims
Revises: 20261125_cleanup
Create Date: 2026-11-25 04:30:00
"""

import sqlalchemy as sa
from alembic import op

from migrations import online

revision = "20261125_claims"
down_revision = "20261125_cleanup"
branch_labels = None
depends_on = None

# Rules of the linter that do not hold here, with the reason.
exceptions = {"renaming-object": "an index: no statement names it"}

_INDEX = "manifests_pending_idx"
_COLUMNS = ["repository_id", "digest"]


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
        if_not_exists=True,
    )
    online.replace_index(
        _INDEX, "manifests", _COLUMNS, where="present AND (blobs IS NULL OR claimed_ns >= 0)"
    )


def downgrade() -> None:
    online.replace_index(_INDEX, "manifests", _COLUMNS, where="present AND blobs IS NULL")
    op.drop_column("manifests", "claimed_ns", if_exists=True)
