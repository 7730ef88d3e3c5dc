"""Quota events as their readers see them: the CloudEvents envelope and the data of each type. PURE.

The shapes are what is published (tests compare real events with them); JSON Schemas and the AsyncAPI
document are made from them. Sizes are bytes, times RFC 3339 in UTC.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ledger import outbox
from ledger.offsets import BreakKind

Count = Annotated[int, Field(ge=0)]
Level = Literal["ok", "warning", "critical", "exceeded"]


def _open(schema: dict[str, Any]) -> None:
    """Readers take fields that come later; only our own tests refuse them."""
    schema.pop("additionalProperties", None)


class EventData(BaseModel):
    """The data of an event."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_open)


class Image(EventData):
    """An image in a repository."""

    registry: str
    repository: str
    app: str
    digest: str
    tags: list[str]
    media_type: str
    size_bytes: Annotated[Count | None, Field(description="Null while it is not known.")]


class ImageRecorded(Image):
    """An image appeared, or got the tags named here."""

    pushed_at: datetime


class ImageRemoved(Image):
    """An image is gone; `tags` are those that it had."""

    deleted_at: datetime


class LevelChanged(EventData):
    """Usage crossed a threshold (0.70, 0.90, 1.00), or fell well below one."""

    level: Level
    previous_level: Level
    usage_bytes: Count
    quota_bytes: Count
    ratio: float


class CleanedImage(EventData):
    """An image that a cleanup deleted, and why."""

    repository: str
    app: str
    digest: str
    tags: list[str]
    freed_bytes: Count
    why: str


class FailedImage(EventData):
    """An image that a cleanup could not delete."""

    repository: str
    digest: str
    reason: str


class Cleanup(EventData):
    """A cleanup and what came of it."""

    run_id: UUID | None
    cause: str
    usage_bytes: Count
    quota_bytes: Count
    target_bytes: Count
    target_reached: bool
    freed_bytes: Count
    awaiting_gc_bytes: Annotated[
        Count, Field(description="Freed by the account; the registry's disk waits for it.")
    ]


class CleanupFinished(Cleanup):
    """A cleanup ended; with every image that went, and those that could not."""

    images: list[CleanedImage]
    failed: list[FailedImage]


class CleanupInsufficient(Cleanup):
    """The target cannot be reached, and why."""

    reason: str | None


class AppBytes(EventData):
    """What an app holds."""

    app: str
    bytes: Count


class BuildDenied(EventData):
    """A strict workspace has no room for a build."""

    build_id: str | None
    app: str | None
    reason: str
    message: str
    usage_bytes: Count
    reserved_bytes: Count
    incoming_bytes: Count
    quota_bytes: Count
    missing_bytes: int
    largest_apps: list[AppBytes]


class DriftDetected(EventData):
    """The ledger differed: from the registry (`reconcile`), or from its own manifests (`recount`)."""

    cause: Literal["reconcile", "recount"]
    drift_bytes: int
    usage_bytes_before: int | None = None
    usage_bytes_after: int | None = None
    found: Annotated[Count | None, Field(description="Manifests that it had missed.")] = None
    corrected: Annotated[Count | None, Field(description="Tags that moved or went.")] = None
    forgotten: Annotated[Count | None, Field(description="Manifests that are gone.")] = None
    reconcile_pass: Annotated[int | None, Field(alias="pass")] = None
    first_seen: bool | None = None
    usage_bytes: int | None = None
    recounted_bytes: int | None = None
    digests: Annotated[Count | None, Field(description="Entries that were wrong.")] = None


class SizeMismatch(EventData):
    """A client declared another size than storage has; storage's counts."""

    digest: str
    declared_bytes: int
    stored_bytes: int


class ImageUnreadable(EventData):
    """An image cannot be pulled: it, or something that it needs, is not there. Once, until it is mended."""

    repository: str
    app: str
    digest: str
    tags: list[str]
    reason: Annotated[str, Field(description="What the registry answers, and for what.")]


class GcVerified(EventData):
    """The registry's garbage collection was verified; bytes, and digests."""

    verification_id: UUID
    predicted_bytes: Count
    predicted: Count
    collected_bytes: Count
    collected: Count
    present_bytes: Count
    present: Count
    unknown_bytes: Count
    unknown: Count
    awaiting_gc_bytes: Count


class LogPartition(EventData):
    """A partition that does not go on where the ledger stood; offsets."""

    partition: Count
    kind: Annotated[
        BreakKind,
        Field(
            description="What was read is not there any more: the log `ends_before`, or its records were"
            " `replaced`. Or what was not read: it `begins_after`, or `skips`. Or Kafka is `another_cluster`."
            " Or the log is the one, and had been read further than an `older_database` knows."
        ),
    ]
    stored_offset: Annotated[Count, Field(description="Where the ledger stood.")]
    first_offset: Count
    end_offset: Count
    resumed_offset: Annotated[Count, Field(description="Where reading goes on.")]


class LogBroken(EventData):
    """The log is not the one that the ledger has read. What it has not seen is read, the registry compared."""

    topic: str
    partitions: list[LogPartition]


DATA: Final[dict[str, type[EventData]]] = {
    outbox.IMAGE_RECORDED: ImageRecorded,
    outbox.IMAGE_REMOVED: ImageRemoved,
    outbox.LEVEL_CHANGED: LevelChanged,
    outbox.CLEANUP_FINISHED: CleanupFinished,
    outbox.CLEANUP_INSUFFICIENT: CleanupInsufficient,
    outbox.BUILD_DENIED: BuildDenied,
    outbox.DRIFT_DETECTED: DriftDetected,
    outbox.SIZE_MISMATCH: SizeMismatch,
    outbox.IMAGE_UNREADABLE: ImageUnreadable,
    outbox.GC_VERIFIED: GcVerified,
    outbox.LOG_BROKEN: LogBroken,
}
"""Type → the model of its data."""

KINDS: Final = frozenset(
    kind.removeprefix("io.registryquota.").rpartition(".v")[0] for kind in DATA
)
"""Types without prefix and version, as `alerts forward --only` takes them."""


def event_schema(kind: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of an event of a type: CloudEvents 1.0, structured JSON."""
    data = DATA[kind].model_json_schema(mode="serialization", by_alias=True)
    definitions = data.pop("$defs", {})
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "description": DATA[kind].__doc__,
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {
                "type": "string",
                "format": "uuid",
                "description": "Stays when it is published again.",
            },
            "source": {"const": "/registry-quota"},
            "type": {"const": kind},
            "subject": {
                "type": "string",
                "description": "The workspace, or the topic that broke; also the record's key.",
            },
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "shortened": {
                "const": True,
                "description": "Only where lists were cut, because a message cannot be that large.",
            },
            "data": data,
        },
    }
    if definitions:
        schema["$defs"] = definitions
    return schema
