"""What every HTTP door of ours shares: health, readiness, metrics, serving."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypedDict, Unpack

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from runtime.lifecycle import Stopping
from runtime.tls import DoorCertificate
from runtime.tracing import HEADER, Span, Tracing, spanning

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


_OPERATIONS = frozenset({"/healthz", "/readyz", "/metrics"})


def traced(tracing: Tracing) -> Middleware:
    """A middleware: a span for each request, in the trace that its `traceparent` names.

    Not for health and metrics; and those whom nobody let in (401) leave none.
    """

    @web.middleware
    async def in_a_span(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else ""
        if route in _OPERATIONS:
            return await handler(request)
        # A method of no kind that is known would be a name from outside.
        method = request.method if request.method in hdrs.METH_ALL else "_OTHER"
        with spanning(
            tracing,
            f"{method} {route}".rstrip(),
            kind="server",
            parent=request.headers.get(HEADER),
            attributes={"http.request.method": method, "http.route": route},
        ) as span:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                # aiohttp's way to say "not found" and the like; not a failure of ours.
                _answered(span, error.status)
                response = error
            else:
                _answered(span, response.status)
        if isinstance(response, web.HTTPException):
            raise response
        return response

    return in_a_span


def _answered(span: Span | None, status: int) -> None:
    if span is None:
        return
    span.note({"http.response.status_code": status})
    if status == 401:
        span.forget()
    elif status >= 500:
        span.failed(str(status))


class Front(Protocol):
    """Takes connections before aiohttp does, answers what it knows, and hands over the rest."""

    def protocol(
        self, behind: Callable[[], asyncio.Protocol], idle_seconds: float
    ) -> asyncio.Protocol:
        """For a new connection; `behind` makes the one to hand it over to."""

    async def close(self, drain_seconds: float) -> None:
        """Answer what is open within so many seconds, then end its connections."""


FRONT = web.AppKey[Front]("front")
"""Where an application keeps its front, if it has one."""


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
    drain_seconds = options.get("drain_seconds", 2.0)
    idle_seconds = options.get("idle_seconds", 75.0)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=drain_seconds,
        handle_signals=False,
        lingering_time=options.get("linger_seconds", 1.0),
        keepalive_timeout=idle_seconds,
        auto_decompress=options.get("decompress", True),
        tcp_keepalive=options.get("tcp_keepalive", True),
        max_line_size=_LONGEST_LINE,
    )
    await runner.setup()
    front = app.get(FRONT)
    try:
        behind: Any = runner.server
        server = await asyncio.get_running_loop().create_server(
            behind if front is None else partial(front.protocol, behind, idle_seconds),
            host,
            port,
            backlog=1024,
            reuse_address=True,
            ssl=None if certificate is None else certificate.server_context(),
        )
        try:
            sockets: list[socket.socket] = list(server.sockets)
            yield int(sockets[0].getsockname()[1]) if sockets else port
        finally:
            server.close()
            if front is not None:
                # Together: one after the other would take twice as long.
                await asyncio.sleep(0)  # what has arrived is begun
                behind.pre_shutdown()
                await asyncio.gather(front.close(drain_seconds), behind.shutdown(drain_seconds))
    finally:
        await runner.cleanup()
