"""a database that was put back deletes nothing until a person has looked

Revision ID: 20261201_older_database
Revises: 20261201_first_push
Create Date: 2026-12-01 14:40:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_older_database"
down_revision = "20261201_first_push"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "log_breaks", sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("log_breaks", "confirmed_at")
