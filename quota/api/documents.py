"""The documents about this API and its topics, served by it: no token, nothing from elsewhere."""

from typing import Any

import msgspec
from aiohttp import web

from quota.api.asyncapi import asyncapi_document
from quota.api.describe import describe
from quota.api.openapi import openapi_document
from quota.api.page import reference_page
from quota.api.problems import ProblemError
from quota.events import DATA, event_schema

_PREFIX = "io.registryquota."
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class DocumentRoutes:
    """Written once, when every route of the application is there."""

    def __init__(self) -> None:
        self._openapi = self._asyncapi = self._page = b""

    def write(self, app: web.Application) -> None:
        """Write the documents from the application's routes."""
        openapi, asyncapi = openapi_document(app), asyncapi_document()
        self._openapi, self._asyncapi = encode_document(openapi), encode_document(asyncapi)
        self._page = reference_page(openapi, asyncapi).encode()

    def routes(self) -> list[web.RouteDef]:
        """Their addresses."""
        return [
            web.get("/openapi.json", self.openapi),
            web.get("/asyncapi.json", self.asyncapi),
            web.get("/schemas/{id}", self.schema),
            web.get("/docs", self.page),
        ]

    @describe("documents", "This document.", scope=None, answers={200: dict})
    async def openapi(self, _request: web.Request) -> web.Response:
        """No token."""
        return _json(self._openapi)

    @describe("documents", "The topics: AsyncAPI 3.", scope=None, answers={200: dict})
    async def asyncapi(self, _request: web.Request) -> web.Response:
        """No token."""
        return _json(self._asyncapi)

    @describe(
        "documents",
        "JSON Schema of a quota event, by its type.",
        scope=None,
        answers={200: dict},
        problems=(404,),
    )
    async def schema(self, request: web.Request) -> web.Response:
        """No token. With or without the types' common prefix."""
        kind = _PREFIX + request.match_info["id"].removesuffix(".json").removeprefix(_PREFIX)
        if kind not in DATA:
            raise ProblemError(404, "there is no event of this type")
        return _json(encode_document(event_schema(kind)))

    @describe(
        "documents",
        "All of this for people.",
        scope=None,
        answers={200: str},
        media_type="text/html",
    )
    async def page(self, _request: web.Request) -> web.Response:
        """No token, no script."""
        return web.Response(
            body=self._page,
            content_type="text/html",
            charset="utf-8",
            headers={"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"},
        )


def encode_document(document: dict[str, Any]) -> bytes:
    """JSON for people and programs, always the same for the same document."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
