"""`registry-quota workspaces list|show|set|map`."""

import asyncio
import re
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.client import api_client, workspace_path
from cli.console import CommandError, console, emit_json, plain, size, table

commands = typer.Typer(help="Who stores how much of what they may.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Workspace = Annotated[str, typer.Argument(help="The workspace's name.")]

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?$", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="workspaces")


@commands.command("list")
def list_workspaces(as_json: AsJson = False) -> None:
    """Every workspace, fullest first."""
    items = asyncio.run(_all())
    items.sort(key=lambda item: (-item["ratio"], item["workspace"]))
    if as_json:
        emit_json(items)
        return
    table(
        "",
        ["workspace", ">used", ">quota", ">%", "level", "enforcement"],
        [
            (
                item["workspace"],
                size(item["usage_bytes"]),
                size(item["quota_bytes"]),
                f"{item['ratio'] * 100:.1f}",
                item["level"],
                item["enforcement"],
            )
            for item in items
        ],
    )


async def _all() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    async with api_client() as api:
        while True:
            page = await api.call("GET", "/v1/workspaces", query={"limit": 1000, "cursor": cursor})
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items


@commands.command()
def show(workspace: Workspace, as_json: AsJson = False) -> None:
    """One workspace's account."""
    usage, settings = asyncio.run(_show(workspace))
    if as_json:
        emit_json({**usage, "enforcement": settings["enforcement"], "policy": settings["policy"]})
        return
    console.print(
        f"[bold]{plain(workspace)}[/]: {size(usage['usage_bytes'])} of {size(usage['quota_bytes'])} "
        f"({usage['ratio'] * 100:.1f}%), level {usage['level']}, {settings['enforcement']}"
    )
    table(
        "",
        ["figure", ">value"],
        [
            ("images", usage["images"]),
            ("tags", usage["tags"]),
            ("untagged images", usage["untagged_images"]),
            ("untagged", size(usage["untagged_bytes"])),
            ("reserved for builds", size(usage["reserved_bytes"])),
            ("awaiting garbage collection", size(usage["awaiting_gc_bytes"])),
        ],
    )


async def _show(workspace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    async with api_client() as api:
        usage = await api.call("GET", workspace_path(workspace, "usage"))
        return usage, await api.call("GET", workspace_path(workspace))


@commands.command("set")
def set_workspace(
    workspace: Workspace,
    quota: Annotated[
        str | None, typer.Option(help="Bytes, or like 500MB, 10GB (1024 base).")
    ] = None,
    enforcement: Annotated[str | None, typer.Option(help="advisory or strict.")] = None,
) -> None:
    """Set a workspace's quota or enforcement; it may be new."""
    body: dict[str, Any] = {}
    if quota is not None:
        body["quota_bytes"] = parse_size(quota)
    if enforcement is not None:
        body["enforcement"] = enforcement
    if not body:
        raise CommandError("nothing to set: give --quota or --enforcement", exit_code=2)

    async def patch() -> dict[str, Any]:
        async with api_client() as api:
            answer: dict[str, Any] = await api.call("PATCH", workspace_path(workspace), body=body)
            return answer

    answer = asyncio.run(patch())
    console.print(
        f"{plain(workspace)}: quota {size(answer['quota_bytes'])}, {answer['enforcement']}, "
        f"uses {size(answer['usage_bytes'])}"
    )


@commands.command("map")
def map_repository(
    repository: Annotated[str, typer.Argument(help="The repository's full name.")],
    workspace: Annotated[str, typer.Argument(help="Where it shall count; may be new.")],
    app: Annotated[str | None, typer.Argument(help="Its app there (as now).")] = None,
    registry: Annotated[str, typer.Option(help="The registry's id.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Move a repository and what it stores to another workspace and app."""
    body = {"workspace": workspace} if app is None else {"workspace": workspace, "app": app}
    path = f"/v1/repositories/{quote(registry, safe='')}/{quote(repository)}"

    async def put() -> dict[str, Any]:
        async with api_client() as api:
            answer: dict[str, Any] = await api.call("PUT", path, body=body)
            return answer

    answer = asyncio.run(put())
    if as_json:
        emit_json(answer)
        return
    console.print(
        f"{plain(repository)}: {plain(answer['previous_workspace'])} → "
        f"{plain(answer['workspace'])}, app {plain(answer['app'])}; "
        f"{answer['moved_manifests']} manifests moved, "
        f"{plain(answer['workspace'])} uses {size(answer['usage_bytes'])}"
    )


def parse_size(text: str) -> int:
    """`10GB` → bytes, 1024 base. Raises CommandError."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise CommandError(f"{text!r} is no size; write bytes, or like 500MB, 10GB", exit_code=2)
    return int(float(match[1]) * 1024 ** " KMGTP".index((match[2] or " ").upper()))
