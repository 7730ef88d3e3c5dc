"""The answers' shapes, for the OpenAPI document. Bytes, seconds, and times as fixed-width UTC text.

Strict: an answer with a field that is not here fails a test. The document that callers get does not
say so, because fields may be added.
"""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ledger.offsets import BreakKind
from quota.policy import PolicyDocument
from registry.kinds import KindName

Count = Annotated[int, Field(ge=0)]
Level = Literal["ok", "warning", "critical", "exceeded"]


def _open(schema: dict[str, Any]) -> None:
    schema.pop("additionalProperties", None)


class Answer(BaseModel):
    """An object that the API answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_open)


Item = TypeVar("Item")


class Page(Answer, Generic[Item]):
    """A part of a list. `next_cursor` null: the last one."""

    items: list[Item]
    next_cursor: str | None


class Warned(Answer):
    """With what its caller should look at."""

    warnings: Annotated[
        list[str],
        Field(description="`unknown_…: ` and a sentence, with near names that the token may see."),
    ]


class WarnedPage(Page[Item], Warned, Generic[Item]):
    """A part of a list, and what its caller should look at."""


class ProblemField(Answer):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(Answer):
    """An error: RFC 9457, with an entry for each wrong field."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ProblemField] = []


class WorkspaceAnswer(Answer):
    """A workspace's settings and account."""

    workspace: str
    quota_bytes: Annotated[int, Field(gt=0)]
    usage_bytes: Count
    reserved_bytes: Count
    ratio: float
    level: Level
    enforcement: Literal["advisory", "strict"]
    policy: PolicyDocument
    configured: bool


class SetWorkspace(WorkspaceAnswer, Warned):
    """A workspace's settings and account, as they were just set."""


class UsageAnswer(Answer):
    """What a workspace stores. The graph's figures (images to untagged_bytes) are as of `as_of`."""

    workspace: str
    usage_bytes: Count
    quota_bytes: Annotated[int, Field(gt=0)]
    ratio: float
    level: Level
    reserved_bytes: Count
    images: Count
    tags: Count
    untagged_images: Count
    untagged_bytes: Count
    awaiting_gc_bytes: Count
    as_of: datetime


class HistoryPoint(Answer):
    """What was stored, and might be, at a moment."""

    at: datetime
    usage_bytes: Count
    quota_bytes: Count


class HistoryAnswer(Answer):
    """Usage over time."""

    workspace: str
    start: Annotated[datetime, Field(alias="from")]
    to: datetime
    step_s: float
    items: list[HistoryPoint]


KindField = Annotated[
    KindName | None,
    Field(description="What it is; null while that is not known. Places are kept for each kind."),
]
ArtifactType = Annotated[
    str | None,
    Field(
        description="Of an `artifact` its `artifactType`, else the type of its config or layers."
    ),
]


class ImageAnswer(Answer):
    """A manifest with its live tags."""

    id: str
    repository: str
    app: str
    digest: str
    media_type: str
    kind: KindField
    artifact_type: ArtifactType
    tags: list[str]
    size_bytes: Annotated[
        Count, Field(description="Config and layers; of an index: its blobs and all children's.")
    ]
    size_pending: Annotated[bool, Field(description="Its manifest has not been read yet.")]
    unique_bytes: Annotated[Count, Field(description="What deleting just this one would free.")]
    pushed_at: datetime | None
    pushed_at_estimated: Annotated[bool, Field(description="No push of it is known.")]
    named_at: Annotated[
        datetime | None,
        Field(
            description="What its age and its place among the newest go by: when a tag last came to name "
            "it. Null: not known, so it is kept."
        ),
    ]
    named_by: Annotated[
        Literal["tag", "date", "image", "push"] | None,
        Field(
            description="Where that is from: a `tag` that came to name it, a person's `date`, the `image` "
            "itself (an estimate), a `push` of what has no tag or had it already."
        ),
    ]
    last_pulled_at: datetime | None
    protected_by: Annotated[
        list[str],
        Field(
            description="What keeps it: `index:` and `subject:` with the digest of what it belongs to,"
            " `lease:` with the source, `keep_tags:` with the pattern, `keep_newest:`,"
            " `keep_pulled_days:` and `min_age:` (seconds) with the policy's value."
        ),
    ]


class EventAnswer(Answer):
    """A quota event; `data` as the AsyncAPI document says for its type."""

    id: UUID
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]


class ReservationAnswer(Answer):
    """Bytes set aside for a build."""

    id: UUID
    build_id: str
    app: str | None
    bytes: Count
    created_at: datetime
    expires_at: datetime


class AddedReservation(ReservationAnswer, Warned):
    """Bytes that were set aside for a build."""


class LeaseAnswer(Answer):
    """What one source has in use."""

    source: str
    digests: list[str]
    reported_at: datetime
    expires_at: datetime
    stale: bool


class ReportedLease(LeaseAnswer, Warned):
    """What a source has reported, and how much of it the workspace holds now."""

    known_digests: Count


class GcCounts(Answer):
    """What was predicted to be collected, and what is known of it. Bytes, and digests."""

    predicted_bytes: Count
    predicted: Count
    collected_bytes: Count
    collected: Count
    present_bytes: Count
    present: Count
    unknown_bytes: Count
    unknown: Count


class GcOfWorkspace(GcCounts):
    """The same for one workspace."""

    workspace: str


class GcVerification(GcCounts):
    """One verification of a garbage collection."""

    id: UUID
    workspace: str | None
    state: Literal["running", "finished", "stopped"]
    message: str | None
    workspaces: list[GcOfWorkspace]
    started_at: datetime
    finished_at: datetime | None


class HookReservation(Answer):
    """What the hook reserved for a build."""

    id: UUID
    bytes: Count
    expires_at: datetime


class CleanedImage(Answer):
    """An image that a cleanup deleted, and why."""

    repository: str
    app: str
    digest: str
    tags: list[str]
    freed_bytes: Count
    why: str
    code: Annotated[
        str,
        Field(description="As in a plan; `goes_with_…`: a part of another image of the list."),
    ]


class FailedImage(Answer):
    """An image that could not be deleted."""

    repository: str
    digest: str
    reason: str


class SparedImage(Answer):
    """An image that was to go and stays, for what happened after the plan was made."""

    repository: str
    digest: str
    tags: list[str]
    code: Annotated[str, Field(description="As in a plan: `pulled_meanwhile`, `in_use`, …")]
    reason: str


class CleanupAnswer(Answer):
    """What a cleanup did, so far or in the end."""

    performed: bool
    run_id: UUID | None
    freed_bytes: Count
    images: list[CleanedImage]
    failed: list[FailedImage]
    spared: list[SparedImage]
    target_reached: bool


class StartedCleanup(CleanupAnswer):
    """A cleanup that was asked for."""

    done: bool
    warnings: list[str]


class HookAnswer(Answer):
    """May the build go on, and what was done for it."""

    decision: Literal["proceed", "deny"]
    reason: Literal[
        "below_threshold", "cleaned_to_target", "still_above_target", "over_quota", "check_failed"
    ]
    message: str
    workspace: str
    quota_bytes: Count
    usage_bytes_before: Count
    usage_bytes: Count
    reserved_bytes: Count
    incoming_bytes: Count
    incoming_source: str
    cleanup: CleanupAnswer
    reservation: HookReservation | None
    warnings: list[str]


class PlannedImage(Answer):
    """An image in a plan, with the reason for its fate."""

    repository: str
    app: str
    digest: str
    kind: KindField
    artifact_type: ArtifactType
    tags: list[str]
    action: Literal["keep", "delete"]
    code: str
    why: str
    freed_bytes: Count
    goes_with: Annotated[
        str | None, Field(description="Digest of the image whose deletion takes it along.")
    ]
    pushed_at: datetime | None
    last_pulled_at: datetime | None
    used_by: Annotated[list[str], Field(description="Lease sources that have it in use.")]


class LeaseSource(Answer):
    """Who reports what is in use."""

    source: str
    reported_at: datetime
    stale: bool


class PlanBlock(Answer):
    """Why nothing may be deleted now."""

    code: str
    why: str


class PlanAnswer(Answer):
    """A dry run: every image with keep or delete; what goes first, in the order of deletion, then the rest, newest first."""

    id: UUID
    made_at: datetime
    expires_at: datetime
    run_id: Annotated[UUID | None, Field(description="The run that carried it out.")]
    workspace: str
    usage_bytes: Count
    usage_after_bytes: Count
    reserved_bytes: Count
    incoming_bytes: Annotated[Count, Field(description="Of the build that it was made for.")]
    build_id: str | None
    target_bytes: Count
    freed_bytes: Count
    target_reached: bool
    why_not: str | None
    blocks: list[PlanBlock]
    warnings: list[PlanBlock]
    lease_sources: list[LeaseSource]
    images: list[PlannedImage]


class RunAnswer(Answer):
    """A cleanup on record."""

    id: UUID
    state: Literal["running", "finished", "stopped", "abandoned"]
    cause: str
    quota_bytes: Count
    usage_before: Count
    usage_after: Count | None
    promised_bytes: Count
    freed_bytes: Count
    target_reached: bool | None
    warnings: list[str]
    message: str | None
    plan_id: Annotated[UUID | None, Field(description="The stored plan that it carries out.")]
    started_at: datetime
    finished_at: datetime | None


class RunItem(Answer):
    """What became of one image."""

    position: int
    repository: str
    app: str
    digest: str
    tags: list[str]
    code: str
    why: str
    promised_bytes: Count
    freed_bytes: Count
    state: Literal["planned", "deleting", "deleted", "failed", "skipped", "restored"]
    failure: str | None
    done_at: datetime | None


class RunWithItems(RunAnswer):
    """A cleanup on record, with its images."""

    items: list[RunItem]


class MovedTagAnswer(Answer):
    """A tag that names another image by now."""

    tag: str
    digest: str


class RestoredImageAnswer(Answer):
    """What became of one manifest that was to be put back."""

    repository: str
    app: str
    digest: str
    tags: Annotated[list[str], Field(description="Tags that name it now.")]
    state: Literal["restored", "present", "lost", "failed"]
    why: str
    missing: Annotated[list[str], Field(description="Digests that the registry has no more.")]
    moved_tags: list[MovedTagAnswer]


class RestoreAnswer(Answer):
    """What was put back, what was there, and what is lost."""

    workspace: str
    run: UUID | None
    restored: Count
    present: Count
    lost: Count
    failed: Count
    usage_bytes: Count
    images: list[RestoredImageAnswer]
    warnings: list[str]


class DatedImageAnswer(Answer):
    """An image whose age a person said."""

    repository: str
    app: str
    digest: str
    tags: list[str]
    named_at: datetime | None
    named_by: Literal["tag", "date", "image", "push"] | None


class DatedAnswer(Answer):
    """What was dated: images, and what belongs to them."""

    dated: Count
    images: list[DatedImageAnswer]
    warnings: list[str]


class MappedAnswer(Answer):
    """A repository's new place, and what moved with it."""

    registry: str
    repository: str
    workspace: str
    app: str
    previous_workspace: str
    previous_app: str
    moved_manifests: Count
    usage_bytes: Count
    previous_usage_bytes: Count
    warnings: list[str]


class TokenAnswer(Answer):
    """A token without its secret. `workspaces` null: all of them."""

    id: str
    name: str
    scopes: list[Literal["read", "hook", "write", "admin"]]
    workspaces: list[str] | None
    state: Literal["active", "expired", "revoked"]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="Exact to a minute.")]


class NewTokenAnswer(TokenAnswer):
    """A token with its text, which is shown this once."""

    token: str
    warnings: list[str]


class ConsumerPosition(Answer):
    """Where consumers stand in a partition."""

    cluster_id: str
    topic: str
    partition: int
    next_offset: int
    owner: str
    changed_at: datetime


class WorkspaceDrift(Answer):
    """What reconciliation had to mend."""

    workspace: str
    found: Count
    corrected: Count
    forgotten: Count
    drift_bytes: int


class ReconciliationStatus(Answer):
    """The newest pass over the registry, and what the newest finished one found."""

    running: bool
    last_started_at: datetime | None
    last_finished_at: datetime | None
    last_error: str | None
    repositories: int | None
    manifests: int | None
    suspected_absences: Count
    drift: list[WorkspaceDrift]


class RecountStatus(Answer):
    """What the newest independent count of every workspace found: 0 is the only good value."""

    drift_bytes: Count
    wrong_digests: Count
    counted_at: datetime | None
    workspaces: list[str]


class ReceiverStatus(Answer):
    """How the receiver is, as it says itself. Counters are those of its process."""

    url: str
    state: Literal["up", "not ready", "down", "unknown"]
    reason: str
    accepted: Count
    refused: Count
    unavailable_lately: Annotated[int, Field(description="Answered 503 in the last minutes.")]
    unauthorized_lately: Annotated[int, Field(description="Answered 401 in the last minutes.")]


class PartitionLagAnswer(Answer):
    """What is not recorded yet of one partition of notifications."""

    partition: int
    end_offset: int
    next_offset: int
    lag_events: Annotated[
        int, Field(description="Below 0: the log ends before what the ledger has read of it.")
    ]
    lag_seconds: float | None


class StaleLease(Answer):
    """A source of digests in use that has not reported in time: nothing is deleted there."""

    workspace: str
    source: str
    expires_at: datetime


class CleanupsStatus(Answer):
    """Cleanups under way, and workspaces whose cleanup nobody carries on."""

    running: Count
    without_owner: list[str]


class RecentError(Answer):
    """A kind of complaint of the last hour: of the API process, or a cleanup that was stopped."""

    at: datetime
    level: Literal["warning", "error"]
    what: str
    times: int


class CheckAnswer(Answer):
    """One part of the pipeline: how it is, and what to do where it is not well."""

    name: str
    title: str
    state: Literal["ok", "warning", "failed", "unknown"]
    found: str
    mend: str


class RegistryStatus(Answer):
    """Whether the registry answers the API process and lets it in; asked at most every few seconds."""

    url: str
    state: Literal["up", "refuses", "down", "unknown"]
    reason: str


class LogStatus(Answer):
    """Whether the log was found not to go on where the ledger stood, since the registry was last compared."""

    broken_at: datetime | None
    partitions: Count
    kinds: list[BreakKind]
    restored_at: datetime | None
    """When the database was found to be older than the log; null once a person has confirmed it."""


class StatusAnswer(Answer):
    """Whether the pipeline is healthy: `state` is that of the worst of `checks`."""

    state: Literal["ok", "warning", "failed", "unknown"]
    as_of: datetime
    checks: list[CheckAnswer]
    receiver: ReceiverStatus
    registry: RegistryStatus
    consumers: Count | None
    partition_lag: list[PartitionLagAnswer]
    stale_leases: list[StaleLease]
    stale_leases_total: Annotated[Count, Field(description="The list has the oldest of them.")]
    cleanups: CleanupsStatus
    recent_errors: list[RecentError]
    recent_errors_total: Annotated[Count, Field(description="The list has the newest of them.")]
    kafka_reachable: bool
    lag_events: int | None
    lag_seconds: float | None
    log: LogStatus
    dead_letters: Count | None
    outbox_waiting: Count
    outbox_age_seconds: float | None
    sizes_pending: Count
    workspaces: Count
    partitions: list[ConsumerPosition]
    reconciliation: ReconciliationStatus
    drift: RecountStatus


class HealthAnswer(Answer):
    """Whether the process lives, or is ready; else why not."""

    status: str
    reason: str = ""
