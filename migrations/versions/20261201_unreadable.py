"""images that cannot be pulled

Revision ID: 20261201_unreadable
Revises: 20261201_told_ahead
Create Date: 2026-12-01 01:40:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_unreadable"
down_revision = "20261201_told_ahead"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unreadable_images",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column(
            "reason", sa.Text(), nullable=False, comment="what the registry answers, and for what"
        ),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.id"],
            name=op.f("unreadable_images_repository_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("unreadable_images_pkey")),
    )


def downgrade() -> None:
    op.drop_table("unreadable_images")
