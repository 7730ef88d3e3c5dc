"""The two activities: parse, one call, answer. What a retry cannot mend is not retried."""

from datetime import UTC, datetime
from typing import Any

import grpc
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

_SHARE = 0.95
"""Share of an attempt's time that the call gets; the rest is for telling Temporal."""
_MOST_SECONDS = 600.0
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
    async def check_quota(self, given: QuotaCheckInput) -> QuotaCheckResult:
        """Before a build. Start-to-close 2 minutes, 3 attempts; the build goes on when it fails."""
        _require(workspaceId=given.workspaceId)
        answer = await self._call(
            "CheckQuotaAndCleanup",
            pb.CheckQuotaRequest(
                workspace_id=given.workspaceId,
                incoming_image_size_estimate=given.incomingImageSizeEstimate,
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
    async def track_image(self, given: TrackImageInput) -> TrackImageResult:
        """After a push. Start-to-close 1 minute."""
        _require(workspaceId=given.workspaceId, appId=given.appId, tag=given.tag)
        answer = await self._call(
            "TrackImage",
            pb.TrackImageRequest(
                workspace_id=given.workspaceId,
                app_id=given.appId,
                tag=given.tag,
                digest=given.digest,
                registry_url=given.registryUrl,
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


def _require(**fields: str) -> None:
    missing = ", ".join(name for name, value in fields.items() if not value)
    if missing:
        raise ApplicationError(f"{missing}: required", type="INVALID", non_retryable=True)


def _seconds_left() -> float:
    """Of this attempt, so that the answer is there before Temporal gives it up."""
    info = activity.info()
    if info.start_to_close_timeout is None:
        return _MOST_SECONDS
    spent = datetime.now(UTC) - info.started_time
    left = (info.start_to_close_timeout - spent).total_seconds()
    return max(0.001, min(left * _SHARE, _MOST_SECONDS))
