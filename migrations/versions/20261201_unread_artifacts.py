"""artifacts of which only a notification is known

Revision ID: 20261201_unread_artifacts
Revises: 20261201_tag_history
Create Date: 2026-12-01 02:30:00
"""

from alembic import op

from migrations import online

revision = "20261201_unread_artifacts"
down_revision = "20261201_tag_history"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index(
        "manifests_unread_artifact_idx",
        "manifests",
        ["repository_id", "digest"],
        where="present AND NOT subject_known AND claimed_ns < 0 AND blobs IS NOT NULL"
        " AND children IS NULL AND artifact_type IS NULL"
        " AND config_media_type IS DISTINCT FROM 'application/vnd.oci.image.config.v1+json'"
        " AND config_media_type IS DISTINCT FROM 'application/vnd.docker.container.image.v1+json'",
    )


def downgrade() -> None:
    op.drop_index("manifests_unread_artifact_idx", if_exists=True)
