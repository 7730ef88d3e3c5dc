"""A real registry seen through one that misbehaves: every answer may be another."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.fake_registry import REGISTRY

_HOP = {"transfer-encoding", "connection", "content-encoding", "content-length", "host"}

Misbehaviour = Callable[[web.Request, web.Response], Awaitable[web.StreamResponse]]


async def _refuses(status: int, request: web.Request) -> web.Response:
    headers = REGISTRY | ({"Retry-After": "0"} if status == 429 else {})
    return web.Response(status=status, headers=headers, text="not now")


async def _hangs(request: web.Request, _answer: web.Response) -> web.StreamResponse:
    await asyncio.sleep(1)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _another_body(_request: web.Request, answer: web.Response) -> web.StreamResponse:
    body = bytes(answer.body) if isinstance(answer.body, bytes) else b""
    return web.Response(status=answer.status, headers=answer.headers, body=body[:-1] + b" ")


async def _cut_short(request: web.Request, answer: web.Response) -> web.StreamResponse:
    body = bytes(answer.body) if isinstance(answer.body, bytes) else b""
    response = web.StreamResponse(
        status=answer.status, headers={**answer.headers, "Content-Length": str(len(body))}
    )
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


async def _redirects(request: web.Request, _answer: web.Response) -> web.StreamResponse:
    return web.Response(status=307, headers=REGISTRY | {"Location": str(request.url)})


async def _huge(request: web.Request, answer: web.Response) -> web.StreamResponse:
    response = web.StreamResponse(status=200, headers=answer.headers)
    await response.prepare(request)
    try:
        for _ in range(512):
            await response.write(b"x" * 65_536)
    except ConnectionError:
        pass
    return response


MISBEHAVIOURS: dict[str, Misbehaviour] = {
    "500": lambda request, _answer: _refuses(500, request),
    "502": lambda request, _answer: _refuses(502, request),
    "503": lambda request, _answer: _refuses(503, request),
    "429": lambda request, _answer: _refuses(429, request),
    "hangs": _hangs,
    "another body": _another_body,
    "cut short": _cut_short,
    "endless redirects": _redirects,
    "huge": _huge,
}


class FlakyRegistry:
    """Misbehaves in a share of all answers, each in one of the ways above, by a seed."""

    def __init__(self, url: str, *, share: float, seed: int) -> None:
        self.url = ""
        self.share = share
        self.misbehaved: Counter[str] = Counter()
        self._behind = url
        self._chance = random.Random(seed)

    async def answer(
        self, session: aiohttp.ClientSession, request: web.Request
    ) -> web.StreamResponse:
        """The real answer, or what is made of it."""
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        async with session.request(
            request.method,
            f"{self._behind}{request.raw_path}",
            headers=headers,
            data=await request.read(),
            allow_redirects=False,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            real = web.Response(status=answer.status, headers=kept, body=await answer.read())
        if self._chance.random() >= self.share:
            return real
        name = self._chance.choice(list(MISBEHAVIOURS))
        if request.method == "HEAD" and name in ("another body", "cut short", "huge"):
            return real
        self.misbehaved[name] += 1
        return await MISBEHAVIOURS[name](request, real)


@asynccontextmanager
async def flaky_registry(url: str, *, share: float, seed: int) -> AsyncIterator[FlakyRegistry]:
    """Serve the registry at `url` under an address of its own."""
    flaky = FlakyRegistry(url, share=share, seed=seed)
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            return await flaky.answer(session, request)

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", handle)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server()
        flaky.url = str(server.make_url("")).rstrip("/")
        try:
            yield flaky
        finally:
            await server.close()
