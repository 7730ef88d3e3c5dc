"""The OpenAPI 3.1 document, from the routes and what their handlers say about themselves."""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, NamedTuple, get_args, get_origin

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from quota.api.describe import Description, description_of
from quota.api.models import HealthAnswer, Problem

_SCHEMAS = "#/components/schemas/"
_OPERATIONS = {
    "/healthz": Description("operations", "Is the process alive?", None, {200: HealthAnswer}),
    "/readyz": Description(
        "operations",
        "Does everything answer that it needs?",
        None,
        {200: HealthAnswer, 503: HealthAnswer},
    ),
    "/metrics": Description(
        "operations", "Figures for Prometheus.", None, {200: str}, media_type="text/plain"
    ),
}
"""The routes of runtime/http, which every process has."""

_PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "reservation": {"type": "string", "description": "A reservation's id, or its build's."},
    "source": {"type": "string"},
    "workspace": {"type": "string", "minLength": 1, "maxLength": 255},
    "registry": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"},
    "repository": {"type": "string", "minLength": 1, "maxLength": 255},
    "id": {"type": "string", "minLength": 1, "maxLength": 200},
}
_PLAIN: dict[Any, dict[str, Any]] = {str: {"type": "string"}, dict: {"type": "object"}}
_ALWAYS_POSSIBLE = (503,)
_DESCRIPTION = """\
Exact storage accounting, quota events and safe pre-build cleanup for a plain Docker registry.

Every call carries `Authorization: Bearer TOKEN`. Each operation names the scope that the token needs;
`admin` implies the others. A token is good for its workspaces alone: somebody else's is answered 404.
Errors are RFC 9457 problem documents that name the field. Sizes are bytes, times UTC.
"""


class Endpoint(NamedTuple):
    """A route with its description."""

    method: str
    path: str
    description: Description | None


def endpoints(app: web.Application) -> list[Endpoint]:
    """Every address of an application, described or not, but what answers HEAD as GET does."""
    found = []
    for route in app.router.routes():
        if route.method == "HEAD" or route.resource is None:
            continue
        path = route.resource.canonical
        description = description_of(route.handler) or _OPERATIONS.get(path)
        found.append(Endpoint(route.method, path, description))
    return found


def openapi_document(app: web.Application) -> dict[str, Any]:
    """The document as it is served. Raises LookupError for a route that has no description."""
    paths: dict[str, dict[str, Any]] = {}
    models: set[tuple[type[BaseModel], JsonSchemaMode]] = {(Problem, "serialization")}
    operations: list[tuple[Endpoint, Description]] = []
    for endpoint in endpoints(app):
        description = endpoint.description
        if description is None:
            raise LookupError(f"{endpoint.method} {endpoint.path} has no @describe(...)")
        if description.hidden:
            continue
        operations.append((endpoint, description))
        models |= _models(description)
    names, definitions = models_json_schema(
        sorted(models, key=lambda item: (item[0].__name__, item[1])),
        ref_template=_SCHEMAS + "{model}",
    )
    for endpoint, description in operations:
        operation = _operation(endpoint, description, names)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "registry-quota",
            "version": version("registry-quota"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(definitions.get("$defs", {}).items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token: `registry-quota tokens create`, or `RQ_API_TOKEN`.",
                },
                "internalKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`RQ_INTERNAL_API_KEY`, of a platform that builds for all workspaces.",
                },
            },
        },
    }


_Names = Mapping[Any, Mapping[str, Any]]


def _models(description: Description) -> set[tuple[type[BaseModel], JsonSchemaMode]]:
    found: set[tuple[type[BaseModel], JsonSchemaMode]] = set()
    if description.body is not None:
        found.add((description.body, "validation"))
    for model in description.answers.values():
        item = get_args(model)[0] if get_origin(model) is list else model
        if isinstance(item, type) and issubclass(item, BaseModel):
            found.add((item, "serialization"))
    return found


def _schema(model: Any, names: _Names) -> Mapping[str, Any]:
    if get_origin(model) is list:
        return {"type": "array", "items": _schema(get_args(model)[0], names)}
    if model in _PLAIN:
        return _PLAIN[model]
    return names[model, "serialization"]


def _operation(endpoint: Endpoint, description: Description, names: _Names) -> dict[str, Any]:
    words = re.sub(r"[^a-zA-Z0-9]+", "_", f"{endpoint.method.lower()}_{endpoint.path}").strip("_")
    needs = "No token." if description.scope is None else f"Scope `{description.scope}`."
    operation: dict[str, Any] = {
        "operationId": words,
        "tags": [description.group],
        "summary": description.summary,
        "description": " ".join(filter(None, (needs, description.details))),
        "x-scope": description.scope,
        "security": [],
    }
    if description.scope is not None:
        operation["security"] = [{"token": [description.scope]}]
        if description.platform:
            operation["security"].append({"internalKey": []})
    parameters = [*_path_parameters(endpoint.path), *_query_parameters(description)]
    if parameters:
        operation["parameters"] = parameters
    if description.body is not None:
        operation["requestBody"] = {
            "required": description.body_required,
            "content": {"application/json": {"schema": names[description.body, "validation"]}},
        }
    operation["responses"] = _responses(endpoint.path, description, names)
    return operation


def _path_parameters(path: str) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}


def _query_parameters(description: Description) -> Iterable[dict[str, Any]]:
    for query in description.query:
        yield {
            "name": query.name,
            "in": "query",
            "required": query.required,
            "description": query.description,
            "schema": dict(query.schema),
        }


def problem_statuses(path: str, description: Description) -> list[int]:
    """Which problem documents an operation may answer."""
    if description.scope is None:
        return sorted(description.problems)
    statuses = {*description.problems, *_ALWAYS_POSSIBLE, 401, 403}
    if "{" in path:
        statuses.add(404)
    if description.query or description.body is not None:
        statuses.add(400)
    if description.body is not None:
        statuses |= {404, 413}
    return sorted(statuses - description.answers.keys())


def _responses(path: str, description: Description, names: _Names) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in description.answers.items():
        answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if model is not None:
            answer["content"] = {description.media_type: {"schema": _schema(model, names)}}
        responses[str(status)] = answer
    for status in problem_statuses(path, description):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": names[Problem, "serialization"]}},
        }
    return dict(sorted(responses.items()))
