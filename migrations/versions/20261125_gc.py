"""what garbage collections really collected

Revision ID: 20261125_gc
Revises: 20261125_claims
Create Date: 2026-11-25 04:50:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261125_gc"
down_revision = "20261125_claims"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gc_verifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=True, comment="null: all of them"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True, comment="what ended it early"),
        sa.Column("counts", JSONB(), nullable=False, comment="bytes and digests, in all"),
        sa.Column("workspaces", JSONB(), nullable=False, comment="the same by workspace"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('running', 'finished', 'stopped')",
            name=op.f("gc_verifications_state_known_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("gc_verifications_pkey")),
    )
    # One at a time, whoever asks.
    op.create_index(
        "gc_verifications_one_running_idx",
        "gc_verifications",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state = 'running'"),
    )


def downgrade() -> None:
    op.drop_table("gc_verifications")
