"""What the API answers. Bytes, aware UTC times. Fields that come to be added are passed over."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

Level = Literal["ok", "warning", "critical", "exceeded"]
Enforcement = Literal["advisory", "strict"]


class Workspace(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace's settings and account."""

    workspace: str
    quota_bytes: int
    usage_bytes: int
    reserved_bytes: int
    ratio: float
    level: Level
    enforcement: Enforcement
    policy: dict[str, Any]
    configured: bool


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a workspace stores. Figures from `images` on are as of `as_of`, the others exact."""

    workspace: str
    usage_bytes: int
    quota_bytes: int
    ratio: float
    level: Level
    reserved_bytes: int
    images: int
    tags: int
    untagged_images: int
    untagged_bytes: int
    awaiting_gc_bytes: int
    as_of: datetime


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest with its live tags."""

    id: str
    repository: str
    app: str
    digest: str
    media_type: str
    kind: str | None
    """image, cache, chart, signature, attestation, sbom, wasm, artifact; None: not known yet."""
    artifact_type: str | None
    tags: list[str]
    size_bytes: int
    """Config and layers; of an index all its children's."""
    size_pending: bool
    unique_bytes: int
    """What deleting just this one would free."""
    pushed_at: datetime | None
    pushed_at_estimated: bool
    named_at: datetime | None
    named_by: str | None
    last_pulled_at: datetime | None
    protected_by: list[str]


class CleanedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a cleanup deleted, and why."""

    repository: str
    app: str
    digest: str
    tags: list[str]
    freed_bytes: int
    why: str
    code: str = ""
    """As in a plan; `goes_with_…`: a part of another image of the list."""


class FailedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that could not be deleted."""

    repository: str
    digest: str
    reason: str


class SparedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was to go and stays, for what happened after the plan was made."""

    repository: str
    digest: str
    tags: list[str]
    code: str
    reason: str


class Cleanup(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup did, so far or in the end."""

    performed: bool
    run_id: UUID | None
    freed_bytes: int
    images: list[CleanedImage]
    failed: list[FailedImage]
    spared: list[SparedImage] = msgspec.field(default_factory=list)
    target_reached: bool


class StartedCleanup(Cleanup, frozen=True, kw_only=True):
    """A cleanup that was asked for; it goes on in the background unless `done`."""

    done: bool
    warnings: list[str]


class HookReservation(msgspec.Struct, frozen=True, kw_only=True):
    """What was set aside for a build."""

    id: UUID
    bytes: int
    expires_at: datetime


class HookAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """May the build go on, and what was done for it."""

    decision: Literal["proceed", "deny"]
    reason: str
    message: str
    workspace: str
    quota_bytes: int
    usage_bytes_before: int
    usage_bytes: int
    reserved_bytes: int
    incoming_bytes: int
    incoming_source: str
    cleanup: Cleanup
    reservation: HookReservation | None
    warnings: list[str]

    @property
    def denied(self) -> bool:
        """Whether the build must stop (only in strict workspaces)."""
        return self.decision == "deny"


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes set aside for a build."""

    id: UUID
    build_id: str
    app: str | None
    bytes: int
    created_at: datetime
    expires_at: datetime


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """A repository's new place, and what moved with it."""

    registry: str
    repository: str
    workspace: str
    app: str
    previous_workspace: str
    previous_app: str
    moved_manifests: int
    usage_bytes: int
    previous_usage_bytes: int
    warnings: list[str]
