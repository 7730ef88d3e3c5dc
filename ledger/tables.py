"""The schema, as SQLAlchemy tables: what the migrations build and `alembic check` compares with.

Times ending in `_ns` are nanoseconds since the epoch (UTC), because a registry's timestamps have
them; all others are `timestamptz`. Digests are raw bytes (their length tells the algorithm).
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from ledger.reading import UNREAD_ARTIFACT

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

_NOW = text("now()")


def _timestamp(name: str, *, nullable: bool = True, now: bool = False) -> Column[object]:
    return Column(
        name,
        DateTime(timezone=True),
        nullable=nullable and not now,
        server_default=_NOW if now else None,
    )


workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("quota_bytes", BigInteger, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False, server_default="0"),
    Column("level", Text, nullable=False, server_default="ok", comment="the level last announced"),
    Column("enforcement", Text, nullable=False, server_default="advisory"),
    Column("policy", JSONB, nullable=False, server_default="{}"),
    Column(
        "configured",
        Boolean,
        nullable=False,
        server_default="false",
        comment="somebody set its quota or policy",
    ),
    Column(
        "found_by_reconciliation",
        Boolean,
        nullable=False,
        server_default="false",
        comment="not cleaned until configured",
    ),
    _timestamp("first_image_at"),
    _timestamp("created_at", now=True),
    _timestamp("changed_at", now=True),
    Column("insufficient_reason", Text, comment="why cleanups do not suffice, as told"),
    Column("insufficient_level", Text),
    _timestamp("insufficient_told_at"),
    CheckConstraint("quota_bytes > 0", name="quota_positive"),
    CheckConstraint("usage_bytes >= 0", name="usage_not_negative"),
    CheckConstraint("enforcement in ('advisory', 'strict')", name="enforcement_known"),
    CheckConstraint("level in ('ok', 'warning', 'critical', 'exceeded')", name="level_known"),
)

usage_history = Table(
    "usage_history",
    metadata,
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False),
    _timestamp("at", nullable=False),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("quota_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("workspace_id", "at"),
    # The row of the running minute is overwritten in its place.
    postgresql_with={"fillfactor": "80"},
)

repositories = Table(
    "repositories",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("registry", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False, index=True),
    Column("app", Text, nullable=False),
    Column(
        "mapped", Boolean, nullable=False, server_default="false", comment="by hand, not by pattern"
    ),
    Column(
        "unsure_ns",
        BigInteger,
        comment="from then on a delete may be of a blob that nobody kept; null: all are kept",
    ),
    _timestamp("created_at", now=True),
    UniqueConstraint("registry", "name"),
)

manifests = Table(
    "manifests",
    metadata,
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("push_ns", BigInteger, nullable=False, server_default="-1"),
    Column("seen_ns", BigInteger, nullable=False, server_default="-1", comment="newest look at it"),
    Column("delete_ns", BigInteger, nullable=False, server_default="-1"),
    Column("created_ns", BigInteger, nullable=False, server_default="-1", comment="says the image"),
    Column("pulled_ns", BigInteger, nullable=False, server_default="-1"),
    Column("first_ns", BigInteger, comment="earliest push that is known; null: earlier releases"),
    Column(
        "left_ns", BigInteger, nullable=False, server_default="-1", comment="when the last tag left"
    ),
    Column("size", BigInteger, nullable=False, server_default="0", comment="bytes of the document"),
    Column("push_id", LargeBinary),
    Column("seen_id", LargeBinary),
    Column("delete_id", LargeBinary),
    Column(
        "sure_ns", BigInteger, comment="newest delete that is certain; delete_ns is what counts"
    ),
    Column("sure_id", LargeBinary),
    Column("heard_ns", BigInteger, comment="newest delete of its digest that an event told"),
    Column("heard_id", LargeBinary),
    Column(
        "odd", LargeBinary, comment="what was told ahead of its time, or contradicted (ahead.py)"
    ),
    Column(
        "present", Boolean, nullable=False, comment="its push or a look is newer than its delete"
    ),
    Column("subject_known", Boolean, nullable=False, server_default="false"),
    Column("media_type", Text, nullable=False, server_default=""),
    Column("config_media_type", Text),
    Column("artifact_type", Text),
    Column("subject", LargeBinary),
    Column("blobs", LargeBinary, comment="packed (digest, declared size); null: size pending"),
    Column("children", LargeBinary, comment="packed digests; null: it names no manifest"),
    Column(
        "claimed_ns",
        BigInteger,
        nullable=False,
        server_default="-1",
        comment="from 0 on: blobs is what a platform said, nobody has read it yet",
    ),
    Column("read_by", SmallInteger, comment="rules by which blobs was read; null: earlier ones"),
    Column("dated_ns", BigInteger, comment="how old a person says it is; null: nobody did"),
    Column("dated_stamp", LargeBinary, comment="when that was said; the newest counts"),
    Column("fetch_attempts", SmallInteger),
    _timestamp("fetch_after"),
    PrimaryKeyConstraint("repository_id", "digest"),
    Index(
        "manifests_pending_idx",
        "repository_id",
        "digest",
        postgresql_where=text("present AND (blobs IS NULL OR claimed_ns >= 0)"),
    ),
    # Few: a blob that is pushed is looked for here.
    Index(
        "manifests_heard_idx",
        "repository_id",
        "digest",
        postgresql_where=text("heard_ns IS NOT NULL"),
    ),
    # What earlier releases read, until it was read again.
    Index(
        "manifests_read_before_idx",
        "repository_id",
        "digest",
        postgresql_where=text(
            "present AND read_by IS NULL AND blobs IS NOT NULL AND claimed_ns < 0"
        ),
    ),
    Index(
        "manifests_unread_artifact_idx",
        "repository_id",
        "digest",
        postgresql_where=text(UNREAD_ARTIFACT),
    ),
    postgresql_with={"fillfactor": "90"},
)

tags = Table(
    "tags",
    metadata,
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary),
    Column("set_ns", BigInteger, nullable=False, server_default="-1"),
    Column("untag_ns", BigInteger, nullable=False, server_default="-1"),
    Column("set_id", LargeBinary),
    Column("untag_id", LargeBinary),
    # Null where an earlier release wrote the row; so is all of it where `history_set_ns` is not `set_ns`.
    Column("named_ns", BigInteger, comment="when it came to name its digest; -1: not known"),
    Column("first_push_ns", BigInteger, comment="where that is not known: its first push since"),
    Column(
        "latest_ns", BigInteger, comment="when it did at the latest, where a look tells; else -1"
    ),
    Column("history_set_ns", BigInteger, comment="the set_ns that these columns belong to"),
    Column("history_partial", Boolean, comment="begins with what an earlier release had left"),
    Column("history", LargeBinary, comment="packed; null: no other set is known"),
    Column(
        "odd", LargeBinary, comment="what was told ahead of its time, or contradicted (ahead.py)"
    ),
    PrimaryKeyConstraint("repository_id", "name"),
    Index(None, "repository_id", "digest"),
)

tag_repeats = Table(
    "tag_repeats",
    metadata,
    Column("repository_id", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("set_ns", BigInteger, nullable=False),
    Column("set_id", LargeBinary, nullable=False),
    Column("moment_ns", BigInteger, nullable=False, comment="-1: a look that knew none"),
    Column("pushed", Boolean, nullable=False),
    PrimaryKeyConstraint("repository_id", "name", "set_ns", "set_id"),
    comment="sets of a tag to the digest that it named already",
)

workspace_digests = Table(
    "workspace_digests",
    metadata,
    Column("digest", LargeBinary, nullable=False),
    Column("workspace_id", Integer, nullable=False),
    Column("refs", Integer, nullable=False),
    Column(
        "names",
        Integer,
        nullable=False,
        server_default="0",
        comment="of refs: manifests that only name it; they hold it once storage has spoken of it",
    ),
    Column("size", BigInteger, nullable=False),
    Column("stored", Boolean, nullable=False, comment="size is what storage said"),
    Column("mixed", Boolean, nullable=False, comment="manifests declared different sizes"),
    _timestamp("released_at"),
    # Digest first: the holders of one digest in all workspaces stand together.
    PrimaryKeyConstraint("digest", "workspace_id"),
    CheckConstraint("refs >= 0", name="refs_not_negative"),
    Index(
        "workspace_digests_released_idx",
        "workspace_id",
        # Without `refs`: a column that stands in an index makes every update of it a new entry.
        postgresql_where=text("released_at IS NOT NULL"),
    ),
    postgresql_with={"fillfactor": "90"},
)

stored_blobs = Table(
    "stored_blobs",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("word", SmallInteger, comment="whose (ledger/words.py); null: earlier releases"),
    Column("asked_ns", BigInteger, comment="Date of the answer"),
)

repository_blobs = Table(
    "repository_blobs",
    metadata,
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("repository_id", "digest"),
    comment="what was pushed or mounted as a blob: a delete of its digest may be the blob's",
)

observations = Table(
    "observations",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("registry", Text, nullable=False),
    Column("repository", Text),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False, comment="cleanup, reconcile, settling, track-image, …"),
    Column("stamp_ns", BigInteger, nullable=False),
    Column("stamp_id", LargeBinary, nullable=False),
    Column("fact", JSON, nullable=False),
    _timestamp("recorded_at", now=True),
)

consumer_offsets = Table(
    "consumer_offsets",
    metadata,
    Column("cluster_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    _timestamp("changed_at", now=True),
    # The last record that was read, and one that a later look at the log has confirmed.
    Column("head_offset", BigInteger),
    Column("head_ms", BigInteger),
    Column("head_digest", LargeBinary),
    Column("anchor_offset", BigInteger),
    Column("anchor_ms", BigInteger),
    Column("anchor_digest", LargeBinary),
    PrimaryKeyConstraint("cluster_id", "topic", "partition"),
    postgresql_with={"fillfactor": "50"},
)

log_breaks = Table(
    "log_breaks",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("cluster_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("stored_offset", BigInteger, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("resumed_offset", BigInteger, nullable=False),
    _timestamp("found_at", nullable=False),
    _timestamp("confirmed_at"),
)

handled_dead_letters = Table(
    "handled_dead_letters",
    metadata,
    Column("cluster_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("record_offset", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    _timestamp("handled_at", nullable=False),
    PrimaryKeyConstraint("cluster_id", "partition", "record_offset"),
    CheckConstraint("outcome in ('retried', 'dropped')", name="outcome_known"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("event_id", Uuid, nullable=False),
    Column("workspace_id", Integer, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", JSON, nullable=False),
    _timestamp("occurred_at", nullable=False),
    _timestamp("published_at"),
    Column("traceparent", Text, comment="W3C trace context, if traced"),
    Index("outbox_unpublished_idx", "id", postgresql_where=text("published_at IS NULL")),
    Index("outbox_workspace_idx", "workspace_id", "id"),
)

tag_checks = Table(
    "tag_checks",
    metadata,
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("tag", Text, nullable=False),
    _timestamp("due_at", nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("repository_id", "tag"),
    Index(None, "due_at"),
)

manifest_checks = Table(
    "manifest_checks",
    metadata,
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    _timestamp("due_at", nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("repository_id", "digest"),
    Index(None, "due_at"),
)

size_checks = Table(
    "size_checks",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column(
        "manifests",
        LargeBinary,
        nullable=False,
        comment="packed (digest, repository id) of manifests with blobs that storage has not spoken of",
    ),
    _timestamp("due_at", nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Index(None, "due_at"),
)

reconcile_passes = Table(
    "reconcile_passes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("registry", Text, nullable=False),
    Column("workspace", Text, comment="null: all of them"),
    Column("confirm_now", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column(
        "cursor", Text, nullable=False, server_default="", comment="repositories up to it are done"
    ),
    Column("repositories", Integer, nullable=False, server_default="0", comment="done so far"),
    Column("manifests", BigInteger, nullable=False, server_default="0", comment="asked for so far"),
    Column("message", Text, comment="what ended it early"),
    Column("listed", Boolean, comment="whether it saw the whole list of repositories"),
    Column(
        "after_break",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="the newest break of the log that it began after",
    ),
    _timestamp("started_at", nullable=False),
    _timestamp("changed_at", nullable=False),
    _timestamp("finished_at"),
    CheckConstraint("state in ('running', 'finished', 'stopped')", name="state_known"),
)

repository_walks = Table(
    "repository_walks",
    metadata,
    Column("registry", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("pass_id", BigInteger, nullable=False),
    _timestamp("walked_at"),
    Column(
        "unread", JSONB, nullable=False, comment="what could not be read: reference to earlier ns"
    ),
    PrimaryKeyConstraint("registry", "repository"),
    comment="the last pass over each repository: what is found after it is no older",
)

recounts = Table(
    "recounts",
    metadata,
    Column(
        "workspace_id",
        Integer,
        ForeignKey("workspaces.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("drift_bytes", BigInteger, nullable=False, comment="counter minus recount"),
    Column("wrong_digests", Integer, nullable=False),
    _timestamp("counted_at", nullable=False),
)

reconcile_drift = Table(
    "reconcile_drift",
    metadata,
    Column(
        "pass_id", BigInteger, ForeignKey("reconcile_passes.id", ondelete="CASCADE"), nullable=False
    ),
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False),
    Column("found", Integer, nullable=False, comment="manifests that the ledger had missed"),
    Column("corrected", Integer, nullable=False, comment="tags that named something else, or went"),
    Column("forgotten", Integer, nullable=False, comment="manifests that were gone"),
    Column("drift_bytes", BigInteger, nullable=False, comment="what all this changed of the usage"),
    Column("usage_before", BigInteger, nullable=False),
    Column("usage_after", BigInteger, nullable=False),
    PrimaryKeyConstraint("pass_id", "workspace_id"),
)

suspected_absences = Table(
    "suspected_absences",
    metadata,
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("reference", Text, nullable=False, comment="a tag, or a digest as text"),
    _timestamp("missing_since", nullable=False),
    PrimaryKeyConstraint("repository_id", "reference"),
)

unreadable_images = Table(
    "unreadable_images",
    metadata,
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False, comment="what the registry answers, and for what"),
    _timestamp("since", nullable=False),
    PrimaryKeyConstraint("repository_id", "digest"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False),
    Column("build_id", Text, nullable=False),
    Column("app", Text),
    Column("bytes", BigInteger, nullable=False),
    _timestamp("created_at", now=True),
    _timestamp("expires_at", nullable=False),
    Column("settled_by", LargeBinary, comment="digest of the push that closed it"),
    Column("settled_tag", Text),
    Column("settled_ns", BigInteger, comment="event time of that push"),
    UniqueConstraint("workspace_id", "build_id"),
    CheckConstraint("bytes >= 0", name="bytes_not_negative"),
)

app_pushes = Table(
    "app_pushes",
    metadata,
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False),
    Column("app", Text, nullable=False),
    Column(
        "recent",
        LargeBinary,
        nullable=False,
        comment="packed (digest prefix, new unique bytes, tagged) of its last pushes, oldest first",
    ),
    PrimaryKeyConstraint("workspace_id", "app"),
    postgresql_with={"fillfactor": "50"},
)

leases = Table(
    "leases",
    metadata,
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False),
    Column("source", Text, nullable=False),
    Column("digests", JSONB, nullable=False, comment="digests in use, as text"),
    _timestamp("reported_at", nullable=False),
    _timestamp("expires_at", nullable=False),
    PrimaryKeyConstraint("workspace_id", "source"),
)

cleanup_runs = Table(
    "cleanup_runs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("quota_bytes", BigInteger, nullable=False),
    Column("usage_before", BigInteger, nullable=False),
    Column("usage_after", BigInteger),
    Column("promised_bytes", BigInteger, nullable=False),
    Column("freed_bytes", BigInteger, nullable=False, server_default="0"),
    Column("message", Text),
    _timestamp("started_at", now=True),
    _timestamp("heartbeat_at", now=True),
    _timestamp("finished_at"),
    Column(
        "epoch", Integer, nullable=False, server_default="1", comment="one more with each owner"
    ),
    Column("incoming_bytes", BigInteger, nullable=False, server_default="0"),
    Column("reserved_bytes", BigInteger, nullable=False, server_default="0"),
    Column("incoming_digests", LargeBinary, comment="packed: held layers of the build it is for"),
    Column("plan_id", Uuid, comment="the stored plan that it carries out"),
    Column("target_reached", Boolean),
    Column("warnings", JSON, nullable=False, server_default="[]"),
    CheckConstraint("state in ('running', 'finished', 'stopped', 'abandoned')", name="state_known"),
    Index("cleanup_runs_workspace_idx", "workspace_id", "started_at"),
    Index("cleanup_runs_started_at_idx", "started_at"),
    # One run at a time per workspace, whoever asks.
    Index(
        "cleanup_runs_one_running_idx",
        "workspace_id",
        unique=True,
        postgresql_where=text("state = 'running'"),
    ),
)

cleanup_items = Table(
    "cleanup_items",
    metadata,
    Column("run_id", Uuid, ForeignKey("cleanup_runs.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("repository_id", Integer, ForeignKey("repositories.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("app", Text, nullable=False),
    Column("tags", JSONB, nullable=False),
    Column("code", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("promised_bytes", BigInteger, nullable=False),
    Column("freed_bytes", BigInteger, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default="planned"),
    Column("failure", Text),
    Column("push_ns", BigInteger, nullable=False, comment="newest push known when it was planned"),
    Column("media_type", Text),
    Column("aged_ns", BigInteger, comment="how old it was when it was planned; null: not known"),
    Column("document", LargeBinary, comment="the manifest's bytes, kept for undo"),
    _timestamp("done_at"),
    Column(
        "unit", Integer, nullable=False, server_default="0", comment="its image and what goes along"
    ),
    Column(
        "gone_ns",
        BigInteger,
        nullable=False,
        server_default="-1",
        comment="the registry's clock after its DELETE: a newer push cannot have been hit by it",
    ),
    Column(
        "unsure_bytes",
        BigInteger,
        comment="no answer came to its DELETE, which would free this; null: its outcome is known",
    ),
    PrimaryKeyConstraint("run_id", "position"),
    CheckConstraint(
        "state in ('planned', 'deleting', 'deleted', 'failed', 'skipped', 'restored')",
        name="state_known",
    ),
    Index("cleanup_items_repository_id_digest_idx", "repository_id", "digest"),
    # What a push may still be found for that the DELETE hit.
    Index("cleanup_items_deleted_idx", "done_at", postgresql_where=text("state = 'deleted'")),
    # What the registry is asked about again.
    Index("cleanup_items_unsure_idx", "run_id", postgresql_where=text("unsure_bytes IS NOT NULL")),
)

own_marks = Table(
    "own_marks",
    metadata,
    Column("key", LargeBinary, primary_key=True, comment="secret: marks what we put back"),
    _timestamp("made_at", now=True),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Text, primary_key=True, comment="the public part of the token"),
    Column("secret_hash", LargeBinary, nullable=False, comment="SHA-256"),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("workspaces", ARRAY(Text), comment="null: all of them"),
    Column("created_by", Text, nullable=False),
    _timestamp("created_at", nullable=False),
    _timestamp("expires_at"),
    _timestamp("revoked_at"),
    _timestamp("last_used_at"),
    CheckConstraint(
        "cardinality(scopes) > 0 and scopes <@ array['read', 'hook', 'write', 'admin']",
        name="scopes_known",
    ),
)

cleanup_plans = Table(
    "cleanup_plans",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Integer, ForeignKey("workspaces.id"), nullable=False),
    Column("steps", LargeBinary, nullable=False, comment="what would go, to be checked again"),
    Column("document", LargeBinary, nullable=False, comment="the answer as it was given"),
    Column("run_id", Uuid, comment="the run that carried it out"),
    Column("made_by", Text, comment="who asked for it"),
    _timestamp("made_at", nullable=False),
    _timestamp("expires_at", nullable=False),
    Index("cleanup_plans_workspace_id_made_at_idx", "workspace_id", "made_at"),
)

gc_verifications = Table(
    "gc_verifications",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace", Text, comment="null: all of them"),
    Column("state", Text, nullable=False),
    Column("message", Text, comment="what ended it early"),
    Column("counts", JSONB, nullable=False, comment="bytes and digests, in all"),
    Column("workspaces", JSONB, nullable=False, comment="the same by workspace"),
    _timestamp("started_at", nullable=False),
    _timestamp("changed_at", nullable=False),
    _timestamp("finished_at"),
    CheckConstraint("state in ('running', 'finished', 'stopped')", name="state_known"),
    # One at a time, whoever asks.
    Index(
        "gc_verifications_one_running_idx",
        "state",
        unique=True,
        postgresql_where=text("state = 'running'"),
    ),
)
