"""What every HTTP door of ours shares: health, readiness, metrics, serving."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypedDict, Unpack

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from runtime.lifecycle import Stopping
from runtime.tls import DoorCertificate

_LONGEST_LINE = 16 * 1024
"""Bytes of a request line: the longest names, escaped, fit beside each other."""

Ready = Callable[[], Awaitable[str | None]]
"""Answers None when ready, else one sentence why not."""


def add_operations_routes(
    app: web.Application, *, ready: Ready, metrics: CollectorRegistry, stopping: Stopping
) -> None:
    """`GET /healthz` (alive), `/readyz` (what it needs answers), `/metrics` (Prometheus)."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_request: web.Request) -> web.Response:
        problem = "stopping" if stopping.is_set() else await ready()
        if problem is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready", "reason": problem}, status=503)

    async def exposition(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)


class ServingOptions(TypedDict, total=False):
    """Bounds on connections. Durations are seconds."""

    drain_seconds: float
    """What open requests get to end at a stop (2)."""
    linger_seconds: float
    """What a client that still sends when its answer is out gets to read it (1)."""
    idle_seconds: float
    """How long a connection may show no complete request header (75)."""
    tcp_keepalive: bool
    """Let the kernel probe silent peers (True): for answers that take long."""
    decompress: bool
    """Undo a request's Content-Encoding (True)."""


@asynccontextmanager
async def serving(
    app: web.Application,
    *,
    host: str,
    port: int,
    certificate: DoorCertificate | None = None,
    **options: Unpack[ServingOptions],
) -> AsyncIterator[int]:
    """Serve `app`, by TLS with a `certificate`, and yield the port in use."""
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=options.get("drain_seconds", 2.0),
        handle_signals=False,
        lingering_time=options.get("linger_seconds", 1.0),
        keepalive_timeout=options.get("idle_seconds", 75.0),
        auto_decompress=options.get("decompress", True),
        tcp_keepalive=options.get("tcp_keepalive", True),
        max_line_size=_LONGEST_LINE,
    )
    await runner.setup()
    try:
        site = web.TCPSite(
            runner,
            host,
            port,
            backlog=1024,
            reuse_address=True,
            ssl_context=None if certificate is None else certificate.server_context(),
        )
        await site.start()
        server = site._server  # noqa: SLF001 - aiohttp has no public way to ask for the port of port 0
        sockets: list[socket.socket] = list(getattr(server, "sockets", []))
        yield int(sockets[0].getsockname()[1]) if sockets else port
    finally:
        await runner.cleanup()
