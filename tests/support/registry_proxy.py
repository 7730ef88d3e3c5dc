"""What stands in front of a real registry in the field: a proxy that strips, moves and sends elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class RegistryProxy:
    """Passes requests on to the registry at `target`."""

    target: str
    url: str = ""
    prefix: str = ""
    """A path below which the registry is served, and which it knows nothing of."""
    strips: frozenset[str] = frozenset()
    """Headers of answers, in lower case, that do not come through."""
    stores_at: str = ""
    """Blobs are at this host and port (of ours), as in object storage."""
    refuses: str = ""
    """Paths with this in them are answered by the proxy itself ..."""
    refuses_with: int = 403
    """... with this status, and a page for people."""
    forbids: frozenset[str] = frozenset()
    """Methods that the account has no right to."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Methods and paths."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as the registry does, but for what is said above."""
        self.asked.append((request.method, request.path))
        path = request.raw_path
        if not path.startswith(self.prefix):
            return web.Response(status=404)
        path = path.removeprefix(self.prefix)
        if request.method in self.forbids:
            denied = {"errors": [{"code": "DENIED", "message": "not yours"}]}
            return web.json_response(denied, status=403)
        if self.refuses and self.refuses in path:
            page = "<html>not the registry</html>"
            return web.Response(status=self.refuses_with, text=page, content_type="text/html")
        is_blob = "/blobs/sha256:" in path and request.method in ("GET", "HEAD")
        here = request.host.partition(":")[0]
        if is_blob and self.stores_at and here != self.stores_at:
            port = request.host.partition(":")[2]
            place = f"http://{self.stores_at}:{port}{request.raw_path}"
            api = {"Docker-Distribution-Api-Version": "registry/2.0"}
            return web.Response(status=307, headers={"Location": place, **api})
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("content-length", "transfer-encoding")
        }
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self.target + path,
                headers=headers,
                data=await request.read() or None,
                allow_redirects=False,
            ) as answer,
        ):
            body = await answer.read()
            passed = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in self.strips | {"transfer-encoding"}
            }
            if request.method != "HEAD":
                passed.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=passed, body=body)


@asynccontextmanager
async def in_front_of(
    target: str,
    *,
    prefix: str = "",
    strips: tuple[str, ...] = (),
    stores_at: str = "",
    refuses: str = "",
    refuses_with: int = 403,
    forbids: tuple[str, ...] = (),
) -> AsyncIterator[RegistryProxy]:
    """A proxy on a port of its own; its `url` has the prefix."""
    lower = frozenset(name.lower() for name in strips)
    proxy = RegistryProxy(
        target,
        prefix=prefix,
        strips=lower,
        stores_at=stores_at,
        refuses=refuses,
        refuses_with=refuses_with,
        forbids=frozenset(forbids),
    )
    app = web.Application(client_max_size=2**28)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    proxy.url = str(server.make_url("")).rstrip("/") + prefix
    try:
        yield proxy
    finally:
        await server.close()
