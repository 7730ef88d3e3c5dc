"""Which pages of other origins may ask what: those that are listed, a workspace's usage, by token."""

import re
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

_SHARED: Final = re.compile(r"/v1/workspaces/[^/]+/usage")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def cross_origin(origins: Collection[str]) -> Middleware:
    """Answers of `GET …/usage` may be read by pages from `origins`; never with cookies."""
    allowed = frozenset(origins)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        shared = _SHARED.fullmatch(request.path) is not None
        if not shared or origin not in allowed or origin is None:
            return await handler(request)
        headers = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin, hdrs.VARY: hdrs.ORIGIN}
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(
                status=204,
                headers={
                    **headers,
                    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET",
                    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Authorization",
                    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
                },
            )
        response = await handler(request)
        response.headers.update(headers)
        return response

    return middleware
