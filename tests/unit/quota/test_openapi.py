"""The OpenAPI document says what the routes are: all of them, each with its scope."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from quota.access import SCOPES
from quota.api.asyncapi import asyncapi_document
from quota.api.describe import describe
from quota.api.openapi import endpoints, openapi_document
from quota.api.page import reference_page
from quota.api.reference import bare_application, documents


class Group:
    """One more route."""

    def __init__(self, path: str, handler: Any) -> None:
        self._route = web.get(path, handler)

    def routes(self) -> list[web.RouteDef]:
        return [self._route]


async def bare(_request: web.Request) -> web.Response:
    return web.Response()


def test_every_route_stands_in_the_document_with_its_scope():
    app = bare_application()
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
        bare_application(Group("/v1/new", bare))


def test_a_described_route_is_taken_in():
    async def described(request: web.Request) -> web.Response:
        return await bare(request)

    handler = describe("new", "A new one.", scope="read", answers={204: None})(described)
    document = openapi_document(bare_application(Group("/v1/new", handler)))
    assert document["paths"]["/v1/new"]["get"]["description"] == "Scope `read`."


WHOLE = {
    # At most 2000 points, whatever is asked for.
    "/v1/workspaces/{workspace}/history",
    # What the platforms that call it know: all of them.
    "/api/internal/workspaces/{id}/registry-images",
}
"""Lists that have no pages."""


def test_every_list_comes_in_pages_of_a_thousand_at_most():
    document = openapi_document(bare_application())
    schemas = document["components"]["schemas"]
    lists = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation["responses"].get("200", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            schema = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
            if schema.get("type") != "array" and "items" not in schema.get("properties", {}):
                continue
            if method != "get" or ("{id}" in path and path not in WHOLE):
                continue  # one thing with what belongs to it
            lists.add(path)
            if path in WHOLE:
                continue
            given = {one["name"]: one["schema"] for one in operation.get("parameters", ())}
            assert {"limit", "cursor"} <= given.keys(), path
            assert given["limit"]["maximum"] <= 1000, path
            assert "next_cursor" in schema["required"], path
    assert lists > WHOLE
    assert len(lists) >= 8
    assert "/v1/workspaces/{workspace}/leases" in lists


REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


def test_the_documents_in_the_repository_are_those_of_the_code():
    wanted = documents()
    there = {
        str(path.relative_to(REFERENCE)): path.read_bytes() for path in REFERENCE.rglob("*.json")
    }
    assert there.keys() == wanted.keys(), "run `make reference`"
    for name, content in wanted.items():
        assert there[name] == content, f"{name} is out of date: run `make reference`"


def test_the_page_for_people_has_every_operation_and_event_and_loads_nothing():
    openapi, asyncapi = openapi_document(bare_application()), asyncapi_document()
    page = reference_page(openapi, asyncapi)
    for methods in openapi["paths"].values():
        for operation in methods.values():
            assert f"id='{operation['operationId']}'" in page
    for message in asyncapi["components"]["messages"].values():
        assert message["name"] in page
    for wrong in ("<script", "src=", "http://", "@import", "url("):
        assert wrong not in page


@pytest.mark.parametrize("document", [openapi_document(bare_application()), asyncapi_document()])
def test_every_reference_in_a_document_is_there(document):

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
