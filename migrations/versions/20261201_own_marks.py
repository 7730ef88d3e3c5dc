"""the key by which we know our own pushes again

Revision ID: 20261201_own_marks
Revises: 20261201_log_breaks
Create Date: 2026-12-01 14:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261201_own_marks"
down_revision = "20261201_log_breaks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "own_marks",
        sa.Column(
            "key", sa.LargeBinary(), nullable=False, comment="secret: marks what we put back"
        ),
        sa.Column(
            "made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("own_marks_pkey")),
    )
    # Two random UUIDs: 244 bits, from Postgres's own generator.
    op.execute(
        "INSERT INTO own_marks (key) SELECT decode(replace("
        "gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')"
    )


def downgrade() -> None:
    op.drop_table("own_marks")
