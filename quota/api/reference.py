"""`python -m quota.api.reference FOLDER`: writes the documents that stand in the repository."""

import sys
from pathlib import Path
from typing import Any, cast

from aiohttp import web
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from quota.api.asyncapi import asyncapi_document
from quota.api.documents import encode_document
from quota.api.openapi import openapi_document
from quota.api.server import RouteGroup, create_app
from quota.events import DATA, event_schema
from quota.tokens import Tokens
from quota.wiring import open_doors, route_groups
from runtime.lifecycle import Stopping
from runtime.settings import Settings


def bare_application(*more: RouteGroup) -> web.Application:
    """The API's routes without anything behind them: to be described, not to be called."""
    nothing = cast("Any", None)
    settings = Settings(api_token=SecretStr("-"), internal_api_key=SecretStr("-"))
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
        collection=nothing,
        pipeline=nothing,
    )
    return create_app(
        *groups, *more, ready=nothing, metrics=CollectorRegistry(), stopping=Stopping()
    )


def documents() -> dict[str, bytes]:
    """File name → content."""
    written = {
        "openapi.json": openapi_document(bare_application()),
        "asyncapi.json": asyncapi_document(),
    }
    for kind in DATA:
        written[f"events/{kind}.json"] = event_schema(kind)
    return {name: encode_document(document) for name, document in written.items()}


def main(folder: Path) -> None:
    """Write them, and remove events that there are not any more."""
    (folder / "events").mkdir(parents=True, exist_ok=True)
    wanted = documents()
    for path in (folder / "events").glob("*.json"):
        if f"events/{path.name}" not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
