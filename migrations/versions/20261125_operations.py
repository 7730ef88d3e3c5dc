"""handled dead letters; the trace that a quota event belongs to

Revision ID: 20261125_operations
Revises: 20261125_gc
Create Date: 2026-11-25 04:40:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261125_operations"
down_revision = "20261125_gc"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "handled_dead_letters",
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("record_offset", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome in ('retried', 'dropped')",
            name=op.f("handled_dead_letters_outcome_known_check"),
        ),
        sa.PrimaryKeyConstraint(
            "cluster_id", "partition", "record_offset", name=op.f("handled_dead_letters_pkey")
        ),
    )
    op.add_column(
        "outbox",
        sa.Column("traceparent", sa.Text(), nullable=True, comment="W3C trace context, if traced"),
    )


def downgrade() -> None:
    op.drop_column("outbox", "traceparent")
    op.drop_table("handled_dead_letters")
