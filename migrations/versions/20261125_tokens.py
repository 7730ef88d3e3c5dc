"""API tokens

Revision ID: 20261125_tokens
Revises: 20261124_reconcile
Create Date: 2026-11-25 04:15:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261125_tokens"
down_revision = "20261124_reconcile"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Text(), nullable=False, comment="the public part of the token"),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False, comment="SHA-256"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "workspaces",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="null: all of them",
        ),
        sa.Column("created_by", sa.Text(), nullable=False),
        _moment("created_at", nullable=False),
        _moment("expires_at"),
        _moment("revoked_at"),
        _moment("last_used_at"),
        sa.CheckConstraint(
            "cardinality(scopes) > 0 and scopes <@ array['read', 'hook', 'write', 'admin']",
            name=op.f("api_tokens_scopes_known_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("api_tokens_pkey")),
    )


def downgrade() -> None:
    op.drop_table("api_tokens")
