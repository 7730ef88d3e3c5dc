"""whose word the size of a blob is

Revision ID: 20261201_words
Revises: 20261201_older_database
Create Date: 2026-12-01 14:40:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_words"
down_revision = "20261201_older_database"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "stored_blobs",
        sa.Column(
            "word",
            sa.SmallInteger(),
            nullable=True,
            comment="whose (ledger/words.py); null: earlier releases",
        ),
    )
    op.add_column(
        "stored_blobs",
        sa.Column("asked_ns", sa.BigInteger(), nullable=True, comment="Date of the answer"),
    )


def downgrade() -> None:
    op.drop_column("stored_blobs", "asked_ns")
    op.drop_column("stored_blobs", "word")
