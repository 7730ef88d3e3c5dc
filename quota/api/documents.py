"""The documents about this API, served by it: no token, nothing from elsewhere."""

from typing import Any

import msgspec
from aiohttp import web

from quota.api.describe import describe
from quota.api.openapi import openapi_document


class DocumentRoutes:
    """`/openapi.json`, written once from the routes of the application."""

    def __init__(self) -> None:
        self._openapi = b""

    def write(self, app: web.Application) -> None:
        """Write the documents, when every route is there."""
        self._openapi = encode_document(openapi_document(app))

    def routes(self) -> list[web.RouteDef]:
        """Their addresses."""
        return [web.get("/openapi.json", self.openapi)]

    @describe("documents", "This document.", scope=None, answers={200: dict})
    async def openapi(self, _request: web.Request) -> web.Response:
        """No token."""
        return web.Response(body=self._openapi, content_type="application/json")


def encode_document(document: dict[str, Any]) -> bytes:
    """JSON for people and programs, always the same for the same document."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
