"""when a tag came to name its digest, and what people say of an image's age

Revision ID: 20261201_tag_history
Revises: 20261201_names
Create Date: 2026-12-01 01:20:00
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261201_tag_history"
down_revision = "20261201_names"
branch_labels = None
depends_on = None

_OF_TAGS = (
    ("named_ns", sa.BigInteger(), "when it came to name its digest; -1: not known"),
    ("first_push_ns", sa.BigInteger(), "where that is not known: its first push since"),
    ("history_set_ns", sa.BigInteger(), "the set_ns that these columns belong to"),
    ("history_partial", sa.Boolean(), "begins with what an earlier release had left"),
    ("history", sa.LargeBinary(), "packed; null: no other set is known"),
)
_OF_MANIFESTS = (
    ("dated_ns", sa.BigInteger(), "how old a person says it is; null: nobody did"),
    ("dated_stamp", sa.LargeBinary(), "when that was said; the newest counts"),
)


def upgrade() -> None:
    for table, columns in (("tags", _OF_TAGS), ("manifests", _OF_MANIFESTS)):
        for name, kind, comment in columns:
            op.add_column(table, sa.Column(name, kind, nullable=True, comment=comment))
    op.add_column(
        "cleanup_items",
        sa.Column(
            "aged_ns",
            sa.BigInteger(),
            nullable=True,
            comment="how old it was when it was planned; null: not known",
        ),
    )
    op.add_column(
        "reconcile_passes",
        sa.Column(
            "listed",
            sa.Boolean(),
            nullable=True,
            comment="whether it saw the whole list of repositories",
        ),
    )
    op.create_table(
        "repository_walks",
        sa.Column("registry", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("pass_id", sa.BigInteger(), nullable=False),
        sa.Column("walked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "unread",
            postgresql.JSONB(),
            nullable=False,
            comment="what could not be read: reference to earlier ns",
        ),
        sa.PrimaryKeyConstraint("registry", "repository", name="repository_walks_pkey"),
        comment="the last pass over each repository: what is found after it is no older",
    )
    op.create_table(
        "tag_repeats",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("set_ns", sa.BigInteger(), nullable=False),
        sa.Column("set_id", sa.LargeBinary(), nullable=False),
        sa.Column(
            "moment_ns", sa.BigInteger(), nullable=False, comment="-1: a look that knew none"
        ),
        sa.Column("pushed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint(
            "repository_id", "name", "set_ns", "set_id", name="tag_repeats_pkey"
        ),
        comment="sets of a tag to the digest that it named already",
    )


def downgrade() -> None:
    op.drop_table("tag_repeats")
    op.drop_table("repository_walks")
    op.drop_column("reconcile_passes", "listed")
    op.drop_column("cleanup_items", "aged_ns")
    for table, columns in (("manifests", _OF_MANIFESTS), ("tags", _OF_TAGS)):
        for name, _kind, _comment in columns:
            op.drop_column(table, name)
