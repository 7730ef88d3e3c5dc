"""The worker process: Temporal's tasks in, calls of the gRPC door out."""

from contextlib import AsyncExitStack

import grpc
from temporalio.client import Client
from temporalio.service import RPCError, TLSConfig
from temporalio.worker import Worker

from runtime.lifecycle import StoppedError, Stopping, background, run_until_stopped
from runtime.logs import get_logger
from runtime.settings import Settings, SettingsError
from runtime.tls import authorities, read_pem
from temporal_worker.activities import QuotaActivities

log = get_logger(__name__)

_RETRY_SECONDS = 2.0


async def run(settings: Settings) -> int:
    """Work until a signal comes; returns the exit code. Raises SettingsError when no token is set."""
    token = settings.required_worker_token()
    target, by_tls = settings.grpc_address()
    temporal_tls = _temporal_tls(settings)

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        client = await _connect(settings, temporal_tls, stopping)
        channel = await stack.enter_async_context(
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(authorities(settings)))
            if by_tls
            else grpc.aio.insecure_channel(target)
        )
        activities = QuotaActivities(channel, token)
        worker = Worker(
            client,
            task_queue=settings.temporal_task_queue,
            activities=[activities.check_quota, activities.track_image],
        )
        # Not `async with worker`: it tells the task that entered it of its end, and that one, our
        # start, has ended before.
        await stack.enter_async_context(background("worker", worker.run(), stopping))
        stack.push_async_callback(worker.shutdown)
        log.info(
            "temporal_worker_started", queue=settings.temporal_task_queue, target=target, tls=by_tls
        )

    return await run_until_stopped(start)


def _temporal_tls(settings: Settings) -> TLSConfig | None:
    """Raises SettingsError when a file cannot be read, or half of a pair is set."""
    if not settings.temporal_tls:
        return None
    certificate, key = settings.temporal_tls_cert, settings.temporal_tls_key
    if (certificate is None) != (key is None):
        raise SettingsError("RQ_TEMPORAL_TLS_CERT and RQ_TEMPORAL_TLS_KEY belong together")
    return TLSConfig(
        server_root_ca_cert=authorities(settings),
        client_cert=None if certificate is None else read_pem(certificate, "RQ_TEMPORAL_TLS_CERT"),
        client_private_key=None if key is None else read_pem(key, "RQ_TEMPORAL_TLS_KEY"),
    )


async def _connect(settings: Settings, tls: TLSConfig | None, stopping: Stopping) -> Client:
    """Raises StoppedError when the process is asked to end meanwhile."""
    while True:
        try:
            return await Client.connect(
                settings.temporal_address, namespace=settings.temporal_namespace, tls=tls or False
            )
        except (RPCError, RuntimeError) as error:
            log.warning("waiting", what="temporal", reason=str(error), check="RQ_TEMPORAL_ADDRESS")
        if await stopping.sleep(_RETRY_SECONDS):
            raise StoppedError("temporal")
