"""A registry whose deletes take a while, so that one can watch: the real one stands behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

_HOP = {"transfer-encoding", "connection", "content-encoding", "content-length", "host"}


@asynccontextmanager
async def slow_deletes(url: str, wait: float | asyncio.Semaphore) -> AsyncIterator[str]:
    """Serve the registry at `url` under an address of its own, yielded.

    A delete takes so many seconds, or begins when the semaphore lets it.
    """
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            asks = request.path.endswith("0" * 64)  # whether it deletes at all: nothing is there
            if request.method == "DELETE" and not asks:
                await (asyncio.sleep(wait) if isinstance(wait, float) else wait.acquire())
            headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
            async with session.request(
                request.method,
                f"{url}{request.raw_path}",
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
            ) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
                if request.method == "HEAD" and "Content-Length" in answer.headers:
                    kept["Content-Length"] = answer.headers["Content-Length"]
                return web.Response(status=answer.status, headers=kept, body=await answer.read())

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", forward)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server()
        try:
            yield str(server.make_url("")).rstrip("/")
        finally:
            await server.close()
