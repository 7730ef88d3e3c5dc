"""A registry that answers by a script: for what a real one cannot be made to do."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from registry.client import RegistryClient
from registry.media_types import OCI_MANIFEST
from registry.transport import Retries

BODY = b'{"schemaVersion": 2}'
DIGEST = hashlib.sha256(BODY).digest()
REGISTRY = {"Docker-Distribution-Api-Version": "registry/2.0"}
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeRegistry:
    """Answers with `script`, one after another; the last one for ever. Remembers what was asked."""

    url: str = ""
    script: list[Answering] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            return await answer(request)
        finally:
            self.open_now -= 1

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def client(
        self,
        *,
        retries: Retries | None = None,
        timeout: float = 5.0,
        concurrency: int = 8,
        token_hosts: frozenset[str] = frozenset(),
        redirect_hosts: frozenset[str] = frozenset(),
        username: str | None = None,
    ) -> RegistryClient:
        client = RegistryClient(
            self.url,
            retries=retries,
            timeout=timeout,
            concurrency=concurrency,
            token_hosts=token_hosts,
            redirect_hosts=redirect_hosts,
            username=username,
            password="secret" if username else None,
        )
        client.transport.sleep = self.sleep
        client.transport.jitter = lambda: 1.0
        return client


def says(status: int, body: bytes = b"", **headers: str) -> Answering:
    async def answer(_request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=REGISTRY | named)

    return answer


NOT_THERE = says(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
"""As a registry says it; without its code it may be anybody's 404."""
GOOD = says(200, BODY, Content_Type=OCI_MANIFEST)


def signed_schema1(*layers: str) -> tuple[bytes, bytes]:
    """A signed schema 1 manifest of layers (digest text), and its digest.

    Its digest is that of the document without the signatures; nobody checks those here.
    """
    listed = [{"blobSum": layer} for layer in layers]
    payload = json.dumps({"schemaVersion": 1, "name": "a/b", "fsLayers": listed}, indent=3).encode()
    length = len(payload) - len(b"\n}")
    protected = {"formatLength": length, "formatTail": _base64(payload[length:])}
    signature = {"signature": "…", "protected": _base64(json.dumps(protected).encode())}
    signatures = json.dumps([signature]).encode()
    body = payload[:length] + b',\n   "signatures": ' + signatures + b"\n}"
    return body, hashlib.sha256(payload).digest()


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


async def cut_short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=REGISTRY | {"Content-Length": str(len(BODY) + 10)})
    await response.prepare(request)
    await response.write(BODY)
    assert request.transport is not None
    request.transport.close()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=REGISTRY)
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 65_536)
    except ConnectionError:
        return response


async def hangs(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def serving_fake() -> AsyncIterator[FakeRegistry]:
    """A fake registry on a port of its own; give it a script before it is asked."""
    fake = FakeRegistry()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    fake.url = str(server.make_url("")).rstrip("/")
    try:
        yield fake
    finally:
        await server.close()
