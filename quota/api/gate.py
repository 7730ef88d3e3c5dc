"""More requests than can be worked on are refused at once, and no question is waited for without end.

A place is for a request whose body is there. Who sends a body slowly, or never, waits beside the places:
a few for those who have not signed in, a share for each caller. Builds come first: the last places are
for their hook.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from quota.api.problems import ProblemError

MOST_AT_ONCE: Final = 1000
"""Requests that are worked on at a time. Each holds its body (up to 1 MiB) and waits for Postgres."""

MOST_WAITED_FOR: Final = 500
"""Bodies that are waited for at a time."""
_OF_ONE_CALLER: Final = 100
_OF_NOBODY: Final = 20
"""Of callers without a token: of the page for signing in."""

READ_SECONDS: Final = 15.0
"""What a question may take. What changes something has bounds of its own, or takes what it takes."""

_OPEN_TO_ALL: Final = frozenset({"/healthz", "/readyz", "/metrics"}) | {
    "/workspaces/{workspace}/live",
    "/pipeline/live",
}
"""Routes of operations, and those that answer for as long as somebody looks: they bound themselves."""
_BUILDS: Final = "/v1/hooks/pre-build"


class Gate:
    """Counts the requests of one process; those that watch the process itself always pass."""

    def __init__(self, *, most: int = MOST_AT_ONCE, read_seconds: float = READ_SECONDS) -> None:
        self._most = most
        self._read_seconds = read_seconds
        self.open = 0
        """How many are being worked on."""
        self.refused = 0
        self._waited_for: Counter[bytes] = Counter()
        """Caller → bodies of theirs that are waited for."""

    @property
    def full(self) -> bool:
        """Whether only builds are let in."""
        return self.open >= self._most - self._most // 5

    @property
    def middleware(self) -> Middleware:
        """To be put inside of what turns a ProblemError into an answer."""

        @web.middleware
        async def pass_or_refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
            # By the route, not by the path: a workspace may be called `live`.
            resource = request.match_info.route.resource
            route = "" if resource is None else resource.canonical
            if route in _OPEN_TO_ALL:
                return await handler(request)
            if self.open >= self._most or (self.full and route != _BUILDS):
                raise self._refusal(f"{self.open} requests are being worked on")
            request[GATE] = self
            self.open += 1
            try:
                if request.method not in ("GET", "HEAD"):
                    return await handler(request)
                async with asyncio.timeout(self._read_seconds):
                    return await handler(request)
            finally:
                self.open -= 1

        return pass_or_refuse

    @contextmanager
    def beside(self, request: web.Request) -> Iterator[None]:
        """While its body is waited for, a request has no place. Raises ProblemError 503."""
        caller = _caller(request)
        mine = self._waited_for[caller]
        if mine >= (_OF_ONE_CALLER if caller else _OF_NOBODY) or (
            self._waited_for.total() >= MOST_WAITED_FOR
        ):
            raise self._refusal(f"{mine} bodies of yours are being waited for")
        self._waited_for[caller] += 1
        self.open -= 1
        try:
            yield
        finally:
            self.open += 1
            self._waited_for[caller] -= 1
            if not self._waited_for[caller]:
                del self._waited_for[caller]

    def _refusal(self, why: str) -> ProblemError:
        self.refused += 1
        return ProblemError(503, f"{why}; try again shortly", headers={"Retry-After": "1"})


GATE: Final = web.RequestKey("gate", Gate)
"""Where a request keeps the gate that it came through."""


def is_known(request: web.Request) -> bool:
    """Whether it says who sends it, for handlers that let in none but callers they know."""
    return bool(_caller(request))


def _caller(request: web.Request) -> bytes:
    """By what a request says who sends it; empty: by nothing. Handlers have let it in before."""
    said = request.headers.get(hdrs.AUTHORIZATION) or request.headers.get(hdrs.COOKIE) or ""
    if request.path == "/sign-in" or not said:
        return b""
    return hashlib.sha256(said.encode(errors="surrogateescape")).digest()
