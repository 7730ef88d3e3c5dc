"""Composition root of the receiver process: nothing else constructs its parts."""

import gc
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from registry.workspaces import WorkspaceRule
from runtime.http import FRONT, ServingOptions, add_operations_routes, serving, traced
from runtime.lifecycle import Stopping, run_until_stopped
from runtime.logs import get_logger
from runtime.settings import Settings
from runtime.tls import door_certificate
from runtime.tracing import Tracing, open_tracing
from webhook_receiver.auth import Tokens
from webhook_receiver.body import READ_TIMEOUT, Limits
from webhook_receiver.front import DeliveryFront, Heads
from webhook_receiver.handlers import PATH, Receiver
from webhook_receiver.in_flight import InFlight
from webhook_receiver.metrics import ReceiverMetrics
from webhook_receiver.publisher import Publisher
from webhook_receiver.summary import summing_up

log = get_logger(__name__)

IN_FLIGHT_BYTES: Final = 64 * 1024 * 1024
"""Least bound on the bytes held at once."""

SERVING: Final = ServingOptions(
    # Open requests at a stop: more than Kafka's time-out, and twice this is under 4 seconds.
    drain_seconds=1.25,
    # Every event is a connection, and every wait here has an end of its own.
    tcp_keepalive=False,
    # A registry does not compress; see `handlers` for what becomes of a body that is.
    decompress=False,
)


def create_app(
    settings: Settings,
    stopping: Stopping,
    *,
    read_timeout: float = READ_TIMEOUT,
    in_flight_bytes: int | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    tracing: Tracing | None = None,
) -> web.Application:
    """The receiver as an application; it connects to Kafka when it starts.

    To be called in the event loop that will run it. `read_timeout` (seconds for a body), `in_flight_bytes` and `now_ns` are for tests.

    Raises:
        SettingsError: no webhook token is set.
    """
    if in_flight_bytes is None:
        # One delivery counts twice: as its body, and as the messages made of it.
        in_flight_bytes = max(IN_FLIGHT_BYTES, 3 * settings.max_body_bytes)
    in_flight = InFlight(in_flight_bytes)
    metrics = ReceiverMetrics(lambda: in_flight.bytes, started=now_ns() / 1e9)
    publisher = Publisher(settings, in_flight=in_flight, metrics=metrics)
    tokens = Tokens(settings.required_webhook_tokens())
    receiver = Receiver(
        tokens=tokens,
        workspaces=WorkspaceRule(settings.workspace_pattern),
        destination=publisher,
        in_flight=in_flight,
        limits=Limits(settings.max_body_bytes, settings.drain_body_bytes, read_timeout),
        metrics=metrics,
        now_ns=now_ns,
    )
    app = web.Application(middlewares=[] if tracing is None else [traced(tracing)])
    app.router.add_post(PATH, receiver.notify, expect_handler=receiver.expect)
    if tracing is None:  # the short way knows no spans
        app[FRONT] = DeliveryFront(Heads(PATH, tokens, settings.max_body_bytes), receiver)
    add_operations_routes(app, ready=publisher.ready, metrics=metrics.registry, stopping=stopping)
    app.cleanup_ctx.append(lambda _app: publisher.running())
    app.cleanup_ctx.append(lambda _app: summing_up(metrics))
    return app


async def run(settings: Settings) -> int:
    """Run the receiver until it is told to stop; the exit code.

    Stopping takes less than 4 s, also when Kafka is away. Raises SettingsError before anything is
    opened.
    """
    certificate = door_certificate(settings)

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        tracing = await stack.enter_async_context(open_tracing("receiver", os.environ))
        port = await stack.enter_async_context(
            serving(
                create_app(settings, stopping, tracing=tracing),
                host=settings.host,
                port=settings.receiver_port,
                certificate=certificate,
                **SERVING,
            )
        )
        # What is here now stays: the collector need not look at it again for every few deliveries.
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        log.info("receiving", host=settings.host, port=port, path=PATH, tls=certificate is not None)

    return await run_until_stopped(start)
