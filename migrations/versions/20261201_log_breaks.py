"""how the log stood where the ledger left it, and where it did not go on from there

Revision ID: 20261201_log_breaks
Revises: 20261201_named_latest
Create Date: 2026-12-01 11:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_log_breaks"
down_revision = "20261201_named_latest"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, kind in (
        ("head_offset", sa.BigInteger()),
        ("head_ms", sa.BigInteger()),
        ("head_digest", sa.LargeBinary()),
        ("anchor_offset", sa.BigInteger()),
        ("anchor_ms", sa.BigInteger()),
        ("anchor_digest", sa.LargeBinary()),
    ):
        op.add_column("consumer_offsets", sa.Column(name, kind, nullable=True))
    op.create_table(
        "log_breaks",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("stored_offset", sa.BigInteger(), nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("resumed_offset", sa.BigInteger(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("log_breaks_pkey")),
    )
    op.add_column(
        "reconcile_passes",
        sa.Column(
            "after_break",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="the newest break of the log that it began after",
        ),
    )


def downgrade() -> None:
    op.drop_column("reconcile_passes", "after_break")
    op.drop_table("log_breaks")
    for name in (
        "anchor_digest",
        "anchor_ms",
        "anchor_offset",
        "head_digest",
        "head_ms",
        "head_offset",
    ):
        op.drop_column("consumer_offsets", name)
