"""A build as a workflow: make room before it, tell about the image after it. An example to copy.

`BuildImage` is the platform's own activity, on the workflow's task queue. The quota's activities run
on the queue of `registry-quota serve temporal-worker`. A failure of theirs never stops a build, unless
its owner wants it so (`failClosed`).
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from temporal_worker.payloads import (
        BuildInput,
        BuildResult,
        QuotaCheckInput,
        QuotaCheckResult,
        TrackImageInput,
        TrackImageResult,
    )

QUOTA_QUEUE = "registry-quota"


@workflow.defn(name="BuildWithQuota")
class BuildWithQuota:
    """Check, build, track; the quota is only that of our own registry, type `orbit`."""

    @workflow.run
    async def run(self, build: BuildInput) -> BuildResult:
        """Build one image."""
        ours = build.registryType == "orbit"
        if ours:
            await self._make_room(build)
        result: BuildResult = await workflow.execute_activity(
            "BuildImage",
            build,
            result_type=BuildResult,
            start_to_close_timeout=timedelta(hours=1),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
        if ours and result.success:
            await self._track(build, result)
        return result

    async def _make_room(self, build: BuildInput) -> None:
        try:
            checked = await workflow.execute_activity(
                "CheckQuotaAndCleanup",
                QuotaCheckInput(build.workspaceId, build.incomingImageSizeEstimate),
                result_type=QuotaCheckResult,
                task_queue=QUOTA_QUEUE,
                start_to_close_timeout=timedelta(minutes=2),
                # Also when no worker of the quota is there: the build does not wait for one.
                schedule_to_close_timeout=timedelta(minutes=7),
                retry_policy=RetryPolicy(maximum_attempts=3),
            )
        except ActivityError as error:
            if build.failClosed:
                raise _stop(f"the quota was not checked: {error.cause}") from error
            workflow.logger.warning("quota check failed, the build goes on: %s", error.cause)
            return
        if checked.error:
            if build.failClosed:
                raise _stop(checked.error)
            workflow.logger.warning("quota: %s", checked.error)
        if checked.cleanupPerformed:
            freed = sum(image.sizeBytes for image in checked.cleanedImages)
            workflow.logger.info(
                "cleaned %d old images, %d bytes freed", len(checked.cleanedImages), freed
            )

    async def _track(self, build: BuildInput, result: BuildResult) -> None:
        try:
            tracked = await workflow.execute_activity(
                "TrackImage",
                TrackImageInput(
                    workspaceId=build.workspaceId,
                    appId=build.appId,
                    tag=build.imageTag,
                    digest=result.imageDigest,
                    registryUrl=build.registryUrl,
                    repository=build.registryRepository,
                ),
                result_type=TrackImageResult,
                task_queue=QUOTA_QUEUE,
                start_to_close_timeout=timedelta(minutes=1),
                schedule_to_close_timeout=timedelta(minutes=5),
                retry_policy=RetryPolicy(maximum_attempts=3),
            )
        except ActivityError as error:
            workflow.logger.warning("the image was not tracked: %s", error.cause)
            return
        if tracked.error:
            workflow.logger.warning("the image was not tracked: %s", tracked.error)
        else:
            workflow.logger.info(
                "tracked: %d bytes, the workspace uses %d", tracked.sizeBytes, tracked.newTotalUsage
            )


def _stop(why: str) -> ApplicationError:
    return ApplicationError(
        f"failClosed stops the build: {why}", type="QUOTA_NOT_CHECKED", non_retryable=True
    )
