"""References are counted without touching an index, and no use claims a row of storage's word.

The partial index named `refs`, so that every reference counted made new index entries.
"""

import sqlalchemy as sa
from alembic import op

revision = "20261125_hot_references"
down_revision = "20261125_operations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("workspace_digests_released_idx", table_name="workspace_digests")
    op.create_index(
        "workspace_digests_released_idx",
        "workspace_digests",
        ["workspace_id"],
        postgresql_where=sa.text("released_at IS NOT NULL"),
    )
    op.execute("DELETE FROM stored_blobs WHERE size < 0")


def downgrade() -> None:
    op.drop_index("workspace_digests_released_idx", table_name="workspace_digests")
    op.create_index(
        "workspace_digests_released_idx",
        "workspace_digests",
        ["workspace_id"],
        postgresql_where=sa.text("refs = 0 AND released_at IS NOT NULL"),
    )
