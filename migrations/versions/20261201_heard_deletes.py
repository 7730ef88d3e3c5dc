"""deletes that only an event tells, and what is known as a blob of a repository

Revision ID: 20261201_heard_deletes
Revises: 20261125_unsure
Create Date: 2026-12-01 01:20:00
"""

import sqlalchemy as sa
from alembic import op

from migrations import online

revision = "20261201_heard_deletes"
down_revision = "20261125_unsure"
branch_labels = None
depends_on = None

# Of each repository that is there: its blobs until now are not known.
NOBODY_KEPT_BLOBS = """
UPDATE repositories SET unsure_ns = (extract(epoch FROM now()) * 1000000000)::int8
WHERE unsure_ns IS NULL
"""

# What an earlier release took for gone because of an event: it may have been a blob with the same bytes.
# An observation newer than any sign of the manifest is our own delete, or an answer of the registry.
# Some fifty a second, so that what comes meanwhile is not behind all of them.
ASK_ABOUT_DELETED = """
INSERT INTO manifest_checks (repository_id, digest, due_at)
SELECT m.repository_id, m.digest, now() + interval '20 ms' * row_number() OVER (ORDER BY m.delete_ns DESC)
FROM manifests m JOIN repositories r ON r.id = m.repository_id
WHERE NOT m.present AND greatest(m.push_ns, m.seen_ns) >= 0 AND r.registry = 'default'
  AND NOT EXISTS (
    SELECT FROM observations o
    WHERE o.kind = 'ManifestDeleted' AND o.registry = r.registry AND o.repository = r.name
      AND o.fact ->> 'digest' = translate(encode(m.digest, 'base64'), E'\\n', '')
      AND o.stamp_ns > greatest(m.push_ns, m.seen_ns))
ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    op.create_table(
        "repository_blobs",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="repository_blobs_repository_id_fkey"
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", name="repository_blobs_pkey"),
        comment="what was pushed or mounted as a blob: a delete of its digest may be the blob's",
        if_not_exists=True,
    )
    op.create_table(
        "manifest_checks",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="manifest_checks_repository_id_fkey"
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", name="manifest_checks_pkey"),
        if_not_exists=True,
    )
    op.create_index("manifest_checks_due_at_idx", "manifest_checks", ["due_at"], if_not_exists=True)
    op.add_column(
        "repositories",
        sa.Column(
            "unsure_ns",
            sa.BigInteger(),
            nullable=True,
            comment="from then on a delete may be of a blob that nobody kept; null: all are kept",
        ),
        if_not_exists=True,
    )
    for name, comment in (
        ("sure", "newest delete that is certain; delete_ns is what counts"),
        ("heard", "newest delete of its digest that an event told"),
    ):
        op.add_column(
            "manifests",
            sa.Column(f"{name}_ns", sa.BigInteger(), nullable=True, comment=comment),
            if_not_exists=True,
        )
        op.add_column(
            "manifests",
            sa.Column(f"{name}_id", sa.LargeBinary(), nullable=True),
            if_not_exists=True,
        )
    op.execute(NOBODY_KEPT_BLOBS)
    op.execute(ASK_ABOUT_DELETED)
    online.create_index(
        "manifests_heard_idx",
        "manifests",
        ["repository_id", "digest"],
        where="heard_ns IS NOT NULL",
    )


def downgrade() -> None:
    op.drop_index("manifests_heard_idx", "manifests", if_exists=True)
    for column in ("sure_ns", "sure_id", "heard_ns", "heard_id"):
        op.drop_column("manifests", column)
    op.drop_column("repositories", "unsure_ns")
    op.drop_table("manifest_checks")
    op.drop_table("repository_blobs")
