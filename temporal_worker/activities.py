"""The two activities: parse, one call, answer. What a retry cannot mend is not retried."""

import re
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TypeVar

import grpc
import msgspec
from google.protobuf.message import Message
from temporalio import activity
from temporalio.exceptions import ApplicationError

from idp.build.v1 import build_pb2 as pb
from idp.build.v1.build_pb2_grpc import BuildServiceStub
from runtime.logs import get_logger
from temporal_worker.payloads import (
    CleanedImage,
    QuotaCheckInput,
    QuotaCheckResult,
    TrackImageInput,
    TrackImageResult,
)

log = get_logger(__name__)

Given = TypeVar("Given")
Request = TypeVar("Request", bound=Message)

_SHARE = 0.95
"""Share of an attempt's time that the call gets; the rest is for telling Temporal."""
_MOST_SECONDS = 600.0
_MOST_BYTES = 64 * 1024
"""Of a message: the door refuses larger ones as it refuses too many, and those are tried again."""
_FINAL = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class QuotaActivities:
    """Asks one gRPC door with one token."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub: Any = BuildServiceStub(channel)  # type: ignore[no-untyped-call]
        self._metadata = (("authorization", f"Bearer {token}"),)

    @activity.defn(name="CheckQuotaAndCleanup")
    async def check_quota(self, payload: Any = None) -> QuotaCheckResult:
        """Before a build: takes a QuotaCheckInput. Start-to-close 2 minutes, 3 attempts; the build goes
        on when it fails.
        """
        given = _read(payload, QuotaCheckInput)
        _require(workspaceId=given.workspaceId)
        answer = await self._call(
            "CheckQuotaAndCleanup",
            _message(
                pb.CheckQuotaRequest(),
                workspaceId=given.workspaceId,
                incomingImageSizeEstimate=given.incomingImageSizeEstimate,
            ),
        )
        return QuotaCheckResult(
            cleanupPerformed=answer.cleanup_performed,
            currentUsageBytes=answer.current_usage_bytes,
            quotaBytes=answer.quota_bytes,
            cleanedImages=[
                CleanedImage(appName=image.app_name, tag=image.tag, sizeBytes=image.size_bytes)
                for image in answer.cleaned_images
            ],
            error=answer.error,
        )

    @activity.defn(name="TrackImage")
    async def track_image(self, payload: Any = None) -> TrackImageResult:
        """After a push: takes a TrackImageInput. Start-to-close 1 minute."""
        given = _read(payload, TrackImageInput)
        _require(workspaceId=given.workspaceId, appId=given.appId, tag=given.tag)
        answer = await self._call(
            "TrackImage",
            _message(
                pb.TrackImageRequest(),
                workspaceId=given.workspaceId,
                appId=given.appId,
                tag=given.tag,
                digest=given.digest,
                registryUrl=given.registryUrl,
                repository=given.repository,
            ),
        )
        return TrackImageResult(
            sizeBytes=answer.size_bytes, newTotalUsage=answer.new_total_usage, error=answer.error
        )

    async def _call(self, method: str, request: Any) -> Any:
        try:
            answer = await getattr(self._stub, method)(
                request, metadata=self._metadata, timeout=_seconds_left()
            )
        except grpc.aio.AioRpcError as error:
            log.warning(
                "activity_failed",
                activity=method,
                workspace=request.workspace_id,
                reason=f"{error.code().name}: {error.details()}",
            )
            raise ApplicationError(
                f"{method}: {error.code().name}: {error.details()}",
                type=error.code().name,
                non_retryable=error.code() in _FINAL,
            ) from error
        log.info(
            "activity",
            activity=method,
            workspace=request.workspace_id,
            digest=getattr(request, "digest", None) or None,
            error=answer.error or None,
        )
        return answer


def _read(payload: Any, kind: type[Given]) -> Given:
    """What a workflow sent. Temporal's own reading would have nonsense tried again and again."""
    if isinstance(payload, dict):
        # An estimate that was computed is seldom whole (1.2 times the last size).
        payload = {
            name: int(value) if isinstance(value, float) and isfinite(value) else value
            for name, value in payload.items()
        }
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error


def _message(message: Request, **fields: str | int) -> Request:
    for name, value in fields.items():
        try:
            setattr(message, re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name), value)
        except ValueError as error:  # beyond 64 bits, or half a character
            raise _invalid(f"{name}: {error}") from error
    if message.ByteSize() > _MOST_BYTES:
        raise _invalid(f"{message.ByteSize()} bytes, at most {_MOST_BYTES} are taken")
    return message


def _require(**fields: str) -> None:
    missing = ", ".join(name for name, value in fields.items() if not value)
    if missing:
        raise _invalid(f"{missing}: required")


def _invalid(message: str) -> ApplicationError:
    return ApplicationError(message, type="INVALID", non_retryable=True)


def _seconds_left() -> float:
    """Of this attempt, so that the answer is there before Temporal gives it up."""
    info = activity.info()
    if info.start_to_close_timeout is None:
        return _MOST_SECONDS
    spent = datetime.now(UTC) - info.started_time
    left = (info.start_to_close_timeout - spent).total_seconds()
    return max(0.001, min(left * _SHARE, _MOST_SECONDS))
