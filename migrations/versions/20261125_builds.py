"""reservations that pushes settle, and what apps usually push

Revision ID: 20261125_builds
Revises: 20261125_usage_history
Create Date: 2026-11-25 04:20:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261125_builds"
down_revision = "20261125_usage_history"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "reservations",
        sa.Column(
            "settled_by",
            sa.LargeBinary(),
            nullable=True,
            comment="digest of the push that closed it",
        ),
    )
    op.add_column("reservations", sa.Column("settled_tag", sa.Text(), nullable=True))
    op.add_column(
        "reservations",
        sa.Column("settled_ns", sa.BigInteger(), nullable=True, comment="event time of that push"),
    )
    op.create_table(
        "app_pushes",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("app", sa.Text(), nullable=False),
        sa.Column(
            "recent",
            sa.LargeBinary(),
            nullable=False,
            comment="packed (digest prefix, new unique bytes, tagged) of its last pushes, oldest first",
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("app_pushes_workspace_id_fkey")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "app", name=op.f("app_pushes_pkey")),
        postgresql_with={"fillfactor": "50"},
    )
    # Short and incompressible: kept in the row as it is.
    op.execute("ALTER TABLE app_pushes ALTER COLUMN recent SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("app_pushes")
    for column in ("settled_ns", "settled_tag", "settled_by"):
        op.drop_column("reservations", column)
