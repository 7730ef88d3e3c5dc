"""The worker process: Temporal's tasks in, calls of the gRPC door out."""

from contextlib import AsyncExitStack

import grpc
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from runtime.lifecycle import StoppedError, Stopping, run_until_stopped
from runtime.logs import get_logger
from runtime.settings import Settings
from temporal_worker.activities import QuotaActivities

log = get_logger(__name__)

_RETRY_SECONDS = 2.0


async def run(settings: Settings) -> int:
    """Work until a signal comes; returns the exit code. Raises SettingsError when no token is set."""
    token = settings.required_worker_token()
    target = settings.grpc_address()

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        client = await _connect(settings, stopping)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
        activities = QuotaActivities(channel, token)
        worker = Worker(
            client,
            task_queue=settings.temporal_task_queue,
            activities=[activities.check_quota, activities.track_image],
        )
        await stack.enter_async_context(worker)
        log.info("temporal_worker_started", queue=settings.temporal_task_queue, target=target)

    return await run_until_stopped(start)


async def _connect(settings: Settings, stopping: Stopping) -> Client:
    """Raises StoppedError when the process is asked to end meanwhile."""
    while True:
        try:
            return await Client.connect(
                settings.temporal_address, namespace=settings.temporal_namespace
            )
        except (RPCError, RuntimeError) as error:
            log.warning("waiting", what="temporal", reason=str(error), check="RQ_TEMPORAL_ADDRESS")
        if await stopping.sleep(_RETRY_SECONDS):
            raise StoppedError("temporal")
