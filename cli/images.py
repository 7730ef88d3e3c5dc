"""`registry-quota images`: what a workspace stores, newest push first."""

import asyncio
from typing import Annotated, Any

import typer

from cli.client import api_client, workspace_path
from cli.console import emit_json, size, table
from cli.options import AsJson, WorkspaceName
from cli.progress import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("images")(images)


def images(
    workspace: WorkspaceName,
    app: Annotated[str | None, typer.Option(help="Only this app.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only what this tag names.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """What a workspace stores, newest push first.

    List images with their sizes and what deleting just them would free.
    """
    items = asyncio.run(_load(workspace, app, tag, limit))
    if as_json:
        emit_json(items)
        return
    table(
        "",
        ["repository", "tags", "kind", "digest", ">size", ">unique", "pushed"],
        [
            (
                item["repository"],
                " ".join(item["tags"]) or "-",
                item["kind"] or "not known",
                item["digest"][:19],
                "pending" if item["size_pending"] else size(item["size_bytes"]),
                size(item["unique_bytes"]),
                item["pushed_at"][:19].replace("T", " "),
            )
            for item in items
        ],
    )


async def _load(
    workspace: str, app: str | None, tag: str | None, limit: int
) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    with progress("reading", unit="images") as work:
        async with api_client() as api:
            while len(items) < limit:
                page = await api.call(
                    "GET",
                    workspace_path(workspace, "images"),
                    query={
                        "limit": min(1000, limit - len(items)),
                        "cursor": cursor,
                        "app": app,
                        "tag": tag,
                    },
                )
                items += page["items"]
                cursor = page["next_cursor"]
                work.at(len(items))
                if cursor is None:
                    break
    return items
