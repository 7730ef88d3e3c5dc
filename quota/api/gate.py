"""More requests than can be worked on are refused at once, and no question is waited for without end."""

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from quota.api.problems import ProblemError

MOST_AT_ONCE: Final = 1000
"""Requests that are worked on at a time. Each holds its body (up to 1 MiB) and waits for Postgres."""

READ_SECONDS: Final = 15.0
"""What a question may take. What changes something has bounds of its own, or takes what it takes."""

_OPEN_TO_ALL: Final = frozenset({"/healthz", "/readyz", "/metrics"}) | {
    "/workspaces/{workspace}/live",
    "/pipeline/live",
}
"""Routes of operations, and those that answer for as long as somebody looks: they bound themselves."""


class Gate:
    """Counts the requests of one process; those that watch the process itself always pass."""

    def __init__(self, *, most: int = MOST_AT_ONCE, read_seconds: float = READ_SECONDS) -> None:
        self._most = most
        self._read_seconds = read_seconds
        self.open = 0
        """How many are being worked on."""
        self.refused = 0

    @property
    def middleware(self) -> Middleware:
        """To be put inside of what turns a ProblemError into an answer."""

        @web.middleware
        async def pass_or_refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
            # By the route, not by the path: a workspace may be called `live`.
            resource = request.match_info.route.resource
            if resource is not None and resource.canonical in _OPEN_TO_ALL:
                return await handler(request)
            if self.open >= self._most:
                self.refused += 1
                raise ProblemError(
                    503,
                    f"{self.open} requests are being worked on; try again shortly",
                    headers={"Retry-After": "1"},
                )
            self.open += 1
            try:
                if request.method not in ("GET", "HEAD"):
                    return await handler(request)
                async with asyncio.timeout(self._read_seconds):
                    return await handler(request)
            finally:
                self.open -= 1

        return pass_or_refuse
