"""The API as an application: groups of routes, the documents about them, problems for every failure."""

from collections.abc import Collection
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from quota.api.crossorigin import cross_origin
from quota.api.documents import DocumentRoutes
from quota.api.gate import Gate
from quota.api.problems import Refused, problems
from runtime.http import Ready, add_operations_routes, traced
from runtime.lifecycle import Stopping
from runtime.tracing import Tracing


class RouteGroup(Protocol):
    """Handlers that belong together; each carries a `@describe(...)`."""

    def routes(self) -> list[web.RouteDef]:
        """Their addresses."""


def create_app(
    *groups: RouteGroup,
    ready: Ready,
    metrics: CollectorRegistry,
    stopping: Stopping,
    origins: Collection[str] = (),
    tracing: Tracing | None = None,
    gate: Gate | None = None,
    refused: Refused = lambda _why: None,
) -> web.Application:
    """Every address of the API. Raises LookupError for a handler that does not describe itself.

    Pages from `origins` may ask for a workspace's usage. `refused` counts who is not let in.
    """
    gate = gate or Gate()
    middlewares = [cross_origin(origins), problems(refused), gate.middleware]
    if tracing is not None:
        middlewares.insert(0, traced(tracing))
    app = web.Application(middlewares=middlewares, client_max_size=1024 * 1024)
    for group in groups:
        app.router.add_routes(group.routes())

    async def ready_and_free() -> str | None:
        return "nearly all places are taken: only builds are let in" if gate.full else await ready()

    add_operations_routes(app, ready=ready_and_free, metrics=metrics, stopping=stopping)
    documents = DocumentRoutes()
    app.router.add_routes(documents.routes())
    documents.write(app)
    return app
