"""References are counted without touching an index, and no use claims a row of storage's word.

The partial index named `refs`, so that every reference counted made new index entries.
"""

from alembic import op

from migrations import online

revision = "20261125_hot_references"
down_revision = "20261125_operations"
branch_labels = None
depends_on = None


# Rules of the linter that do not hold here, with the reason.
exceptions = {"renaming-object": "an index: no statement names it"}

_INDEX = "workspace_digests_released_idx"


def upgrade() -> None:
    op.execute("DELETE FROM stored_blobs WHERE size < 0")
    online.replace_index(
        _INDEX, "workspace_digests", ["workspace_id"], where="released_at IS NOT NULL"
    )


def downgrade() -> None:
    online.replace_index(
        _INDEX, "workspace_digests", ["workspace_id"], where="refs = 0 AND released_at IS NOT NULL"
    )
