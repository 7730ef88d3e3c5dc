"""reconciliation, settling and size checks

Revision ID: 20261124_reconcile
Revises: 20261123_ledger
Create Date: 2026-11-24 01:25:00
"""

import sqlalchemy as sa
from alembic import op

revision = "20261124_reconcile"
down_revision = "20261123_ledger"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "size_checks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "manifests",
            sa.LargeBinary(),
            nullable=False,
            comment="packed (digest, repository id) of manifests with blobs that storage has not spoken of",
        ),
        _moment("due_at"),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("size_checks_pkey")),
    )
    op.create_index(op.f("size_checks_due_at_idx"), "size_checks", ["due_at"])
    # Digests do not compress: trying costs time in every batch.
    op.execute("ALTER TABLE size_checks ALTER COLUMN manifests SET STORAGE EXTERNAL")
    op.create_table(
        "reconcile_passes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("registry", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=True, comment="null: all of them"),
        sa.Column("confirm_now", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "cursor",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="repositories up to it are done",
        ),
        sa.Column(
            "repositories", sa.Integer(), server_default="0", nullable=False, comment="done so far"
        ),
        sa.Column(
            "manifests",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="asked for so far",
        ),
        sa.Column("message", sa.Text(), nullable=True, comment="what ended it early"),
        _moment("started_at"),
        _moment("changed_at"),
        _moment("finished_at", nullable=True),
        sa.CheckConstraint(
            "state in ('running', 'finished', 'stopped')",
            name=op.f("reconcile_passes_state_known_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("reconcile_passes_pkey")),
    )
    op.create_table(
        "reconcile_drift",
        sa.Column("pass_id", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column(
            "found", sa.Integer(), nullable=False, comment="manifests that the ledger had missed"
        ),
        sa.Column(
            "corrected",
            sa.Integer(),
            nullable=False,
            comment="tags that named something else, or went",
        ),
        sa.Column("forgotten", sa.Integer(), nullable=False, comment="manifests that were gone"),
        sa.Column(
            "drift_bytes",
            sa.BigInteger(),
            nullable=False,
            comment="what all this changed of the usage",
        ),
        sa.Column("usage_before", sa.BigInteger(), nullable=False),
        sa.Column("usage_after", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pass_id"],
            ["reconcile_passes.id"],
            name=op.f("reconcile_drift_pass_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("reconcile_drift_workspace_id_fkey")
        ),
        sa.PrimaryKeyConstraint("pass_id", "workspace_id", name=op.f("reconcile_drift_pkey")),
    )
    op.create_table(
        "suspected_absences",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False, comment="a tag, or a digest as text"),
        _moment("missing_since"),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.id"],
            name=op.f("suspected_absences_repository_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("repository_id", "reference", name=op.f("suspected_absences_pkey")),
    )


def downgrade() -> None:
    for table in ("suspected_absences", "reconcile_drift", "reconcile_passes", "size_checks"):
        op.drop_table(table)
