"""The OpenAPI document says what the routes are: all of them, each with its scope."""

from typing import Any, cast

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from quota.access import SCOPES
from quota.api.describe import describe
from quota.api.openapi import endpoints, openapi_document
from quota.api.server import create_app
from quota.tokens import Tokens
from quota.wiring import open_doors, route_groups
from runtime.lifecycle import Stopping
from runtime.settings import Settings


def application(*more: Any) -> web.Application:
    """The API's routes, without anything behind them."""
    settings, nothing = Settings(api_token="a", internal_api_key="b"), cast("Any", None)
    tokens = Tokens(nothing, clock=nothing)
    groups = route_groups(
        settings,
        nothing,
        tokens=tokens,
        doors=open_doors(settings, tokens),
        recorder=nothing,
        accounts=nothing,
        hook=nothing,
        cleaner=nothing,
    )
    return create_app(
        *groups, *more, ready=nothing, metrics=CollectorRegistry(), stopping=Stopping()
    )


class Group:
    """One more route."""

    def __init__(self, path: str, handler: Any) -> None:
        self._route = web.get(path, handler)

    def routes(self) -> list[web.RouteDef]:
        return [self._route]


async def bare(_request: web.Request) -> web.Response:
    return web.Response()


def test_every_route_stands_in_the_document_with_its_scope():
    app = application()
    document = openapi_document(app)
    for endpoint in endpoints(app):
        if endpoint.description is not None and endpoint.description.hidden:
            continue  # a page for people
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        assert operation["x-scope"] in {*SCOPES, None}
        if endpoint.path.startswith(("/v1/", "/api/")):
            assert operation["x-scope"] is not None, endpoint
            assert operation["security"]


def test_a_route_that_says_nothing_about_itself_refuses_to_start():
    with pytest.raises(LookupError, match="GET /v1/new has no @describe"):
        application(Group("/v1/new", bare))


def test_a_described_route_is_taken_in():
    handler = describe("new", "A new one.", scope="read", answers={204: None})(bare)
    document = openapi_document(application(Group("/v1/new", handler)))
    assert document["paths"]["/v1/new"]["get"]["description"] == "Scope `read`."


def test_every_reference_in_the_document_is_there():
    document = openapi_document(application())

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        if isinstance(node, list):
            return set().union(*(references(value) for value in node))
        return set()

    for reference in references(document):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
