"""what manifests only name, and by which rules they were read

Revision ID: 20261201_names
Revises: 20261201_heard_deletes
Create Date: 2026-12-01 01:20:00
"""

import sqlalchemy as sa
from alembic import op

from migrations import online

revision = "20261201_names"
down_revision = "20261201_heard_deletes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "workspace_digests",
        sa.Column(
            "names",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="of refs: manifests that only name it; they hold it once storage has spoken of it",
        ),
        if_not_exists=True,
    )
    op.add_column(
        "manifests",
        sa.Column(
            "read_by",
            sa.SmallInteger(),
            nullable=True,
            comment="rules by which blobs was read; null: earlier ones",
        ),
        if_not_exists=True,
    )
    op.alter_column("manifests", "children", comment="packed digests; null: it names no manifest")
    online.create_index(
        "manifests_read_before_idx",
        "manifests",
        ["repository_id", "digest"],
        where="present AND read_by IS NULL AND blobs IS NOT NULL AND claimed_ns < 0",
    )


def downgrade() -> None:
    op.drop_index("manifests_read_before_idx", "manifests", if_exists=True)
    op.alter_column("manifests", "children", comment="packed digests; null: not an index")
    op.drop_column("manifests", "read_by")
    op.drop_column("workspace_digests", "names")
