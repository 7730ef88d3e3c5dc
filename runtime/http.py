"""What every HTTP door of ours shares: health, readiness, metrics, serving."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from runtime.lifecycle import Stopping

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


@asynccontextmanager
async def serving(
    app: web.Application,
    *,
    host: str,
    port: int,
    drain_seconds: float = 2.0,
    linger_seconds: float = 1.0,
    idle_seconds: float = 75.0,
    decompress: bool = True,
) -> AsyncIterator[int]:
    """Serve `app` and yield the port in use.

    On leaving, open requests get `drain_seconds` to end. A client that is still sending when its
    answer is out gets `linger_seconds` to read it. A connection that shows no complete request
    header for `idle_seconds` is closed. `decompress`: undo a request's Content-Encoding.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=drain_seconds,
        handle_signals=False,
        lingering_time=linger_seconds,
        keepalive_timeout=idle_seconds,
        auto_decompress=decompress,
        tcp_keepalive=False,  # idle_seconds ends what a probe would
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024, reuse_address=True)
        await site.start()
        server = site._server  # noqa: SLF001 - aiohttp has no public way to ask for the port of port 0
        sockets: list[socket.socket] = list(getattr(server, "sockets", []))
        yield int(sockets[0].getsockname()[1]) if sockets else port
    finally:
        await runner.cleanup()
