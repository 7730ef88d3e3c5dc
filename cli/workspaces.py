"""`registry-quota workspaces list|show|set|map`."""

import asyncio
import re
from typing import Annotated, Any

import msgspec
import typer

from cli.client import api_client, workspace_path
from cli.console import CommandError, console, emit_json, plain, size, table
from registry_quota import Mapped, Usage, Workspace

commands = typer.Typer(help="Who stores how much of what they may.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Name = Annotated[str, typer.Argument(help="The workspace's name.")]

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?$", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="workspaces")


@commands.command("list")
def list_workspaces(as_json: AsJson = False) -> None:
    """Every workspace, fullest first."""
    items = asyncio.run(_all())
    items.sort(key=lambda item: (-item.ratio, item.workspace))
    if as_json:
        emit_json(msgspec.to_builtins(items))
        return
    table(
        "",
        ["workspace", ">used", ">quota", ">%", "level", "enforcement"],
        [
            (
                item.workspace,
                size(item.usage_bytes),
                size(item.quota_bytes),
                f"{item.ratio * 100:.1f}",
                item.level,
                item.enforcement,
            )
            for item in items
        ],
    )


async def _all() -> list[Workspace]:
    async with api_client() as api:
        return [item async for item in api.workspaces()]


@commands.command()
def show(workspace: Name, as_json: AsJson = False) -> None:
    """One workspace's account."""
    usage, settings = asyncio.run(_show(workspace))
    if as_json:
        more = {"enforcement": settings.enforcement, "policy": settings.policy}
        emit_json({**msgspec.to_builtins(usage), **more})
        return
    console.print(
        f"[bold]{plain(workspace)}[/]: {size(usage.usage_bytes)} of {size(usage.quota_bytes)} "
        f"({usage.ratio * 100:.1f}%), level {usage.level}, {settings.enforcement}"
    )
    table(
        "",
        ["figure", ">value"],
        [
            ("images", usage.images),
            ("tags", usage.tags),
            ("untagged images", usage.untagged_images),
            ("untagged", size(usage.untagged_bytes)),
            ("reserved for builds", size(usage.reserved_bytes)),
            ("awaiting garbage collection", size(usage.awaiting_gc_bytes)),
        ],
    )


async def _show(workspace: str) -> tuple[Usage, Workspace]:
    async with api_client() as api:
        return await api.usage(workspace), await api.workspace(workspace)


@commands.command("set")
def set_workspace(
    workspace: Name,
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

    async def put() -> Mapped:
        async with api_client() as api:
            return await api.map_repository(repository, workspace, app=app, registry=registry)

    answer = asyncio.run(put())
    if as_json:
        emit_json(msgspec.to_builtins(answer))
        return
    console.print(
        f"{plain(repository)}: {plain(answer.previous_workspace)} → "
        f"{plain(answer.workspace)}, app {plain(answer.app)}; "
        f"{answer.moved_manifests} manifests moved, "
        f"{plain(answer.workspace)} uses {size(answer.usage_bytes)}"
    )


def parse_size(text: str) -> int:
    """`10GB` → bytes, 1024 base. Raises CommandError."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise CommandError(f"{text!r} is no size; write bytes, or like 500MB, 10GB", exit_code=2)
    return int(float(match[1]) * 1024 ** " KMGTP".index((match[2] or " ").upper()))
