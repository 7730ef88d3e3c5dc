"""`registry-quota workspaces list|show|set|map|place|delete`."""

import asyncio
import json
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from cli.client import ApiError, api_client, workspace_path
from cli.console import CommandError, console, emit_json, plain, table
from cli.options import AsJson, WorkspaceName, workspace_names
from cli.placing import place
from quota.policy import DEFAULT_POLICY, GLOB_FIELDS, policy_document
from quota.words import format_bytes, plural
from registry_quota import Mapped, Usage, Workspace
from runtime.figures import percent

commands = typer.Typer(help="Who stores how much of what they may.", no_args_is_help=True)

_CONFLICT = 409
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?$", re.IGNORECASE)


class Enforcement(StrEnum):
    """What happens to a build that has no room."""

    advisory = "advisory"
    strict = "strict"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    commands.command("place")(place)
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
        ["workspace", ">used", ">quota", ">share", "level", "enforcement"],
        [
            (
                item.workspace,
                format_bytes(item.usage_bytes),
                format_bytes(item.quota_bytes),
                percent(item.usage_bytes, item.quota_bytes),
                item.level,
                item.enforcement,
            )
            for item in items
        ],
        names=["workspace"],
    )


async def _all() -> list[Workspace]:
    async with api_client() as api:
        return [item async for item in api.workspaces()]


@commands.command()
def show(workspace: WorkspaceName, as_json: AsJson = False) -> None:
    """One workspace's account."""
    usage, settings = asyncio.run(_show(workspace))
    if as_json:
        more = {"enforcement": settings.enforcement, "policy": settings.policy}
        emit_json({**msgspec.to_builtins(usage), **more})
        return
    console.print(
        f"[bold]{plain(workspace)}[/]: {format_bytes(usage.usage_bytes)} of {format_bytes(usage.quota_bytes)} "
        f"({percent(usage.usage_bytes, usage.quota_bytes)}), level {usage.level}, {settings.enforcement}"
    )
    table(
        "",
        ["figure", ">value"],
        [
            ("images", usage.images),
            ("tags", usage.tags),
            ("untagged images", usage.untagged_images),
            ("untagged", format_bytes(usage.untagged_bytes)),
            ("reserved for builds", format_bytes(usage.reserved_bytes)),
            ("awaiting garbage collection", format_bytes(usage.awaiting_gc_bytes)),
        ],
    )


async def _show(workspace: str) -> tuple[Usage, Workspace]:
    async with api_client() as api:
        return await api.usage(workspace), await api.workspace(workspace)


@commands.command("set")
def set_workspace(
    workspace: WorkspaceName,
    quota: Annotated[
        str | None, typer.Option(help="Bytes, or like 500MB, 10GB (1024 base).")
    ] = None,
    enforcement: Annotated[
        Enforcement | None, typer.Option(help="Whether the hook may deny a build.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A rule of cleanup, such as keep_newest=5, min_age=3d, keep_tags=v*,stable; "
            "several times for several, the others stay. NAME= gives one its default back.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set a workspace's quota, enforcement or policy; it may be new."""
    body: dict[str, Any] = {}
    if quota is not None:
        body["quota_bytes"] = parse_size(quota)
    if enforcement is not None:
        body["enforcement"] = enforcement.value
    rules = parse_rules(policy or ())
    if not body and not rules:
        raise CommandError("nothing to set: give --quota, --enforcement or --policy", exit_code=2)
    if rules:
        body["policy"] = rules  # what is not named stays

    async def patch() -> dict[str, Any]:
        async with api_client() as api:
            answer: dict[str, Any] = await api.call("PATCH", workspace_path(workspace), body=body)
            return answer

    answer = asyncio.run(patch())
    if as_json:
        emit_json(answer)
        return
    console.print(
        f"{plain(workspace)}: quota {format_bytes(answer['quota_bytes'])}, {answer['enforcement']}, "
        f"uses {format_bytes(answer['usage_bytes'])}"
    )


def parse_rules(texts: Sequence[str]) -> dict[str, Any]:
    """`keep_newest=5` → {"keep_newest": 5}, `keep_newest=` → its default; whether it makes sense the API says. Raises CommandError."""
    rules: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise CommandError(
                f"--policy {text!r} is no rule; write it like keep_newest=5", exit_code=2
            )
        rules[name.strip()] = _rule_value(name.strip(), value.strip())
    return rules


def _rule_value(name: str, text: str) -> Any:
    if not text:
        # A name that there is not goes as it is: the API says which there are.
        return policy_document(DEFAULT_POLICY).get(name, text)
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if name in GLOB_FIELDS and not isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return value


@commands.command("delete")
def delete_workspace(workspace: WorkspaceName, as_json: AsJson = False) -> None:
    """Remove an empty workspace, with its settings and its history.

    Exit code 3 when it still holds images, reservations, leases or a running cleanup. A push that comes
    later makes it anew, at the default quota.
    """

    async def delete() -> None:
        async with api_client() as api:
            await api.call("DELETE", workspace_path(workspace))

    try:
        asyncio.run(delete())
    except ApiError as error:
        if error.status == _CONFLICT:
            raise CommandError(str(error), exit_code=3) from error
        raise
    if as_json:
        emit_json({"workspace": workspace, "deleted": True})
        return
    console.print(f"{plain(workspace)} is removed")


@commands.command("map")
def map_repository(
    repository: Annotated[str, typer.Argument(help="The repository's full name.")],
    workspace: Annotated[
        str,
        typer.Argument(help="Where it shall count; may be new.", autocompletion=workspace_names),
    ],
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
        f"{plural(answer.moved_manifests, 'manifest')} moved, "
        f"{plain(answer.workspace)} uses {format_bytes(answer.usage_bytes)}"
    )


def parse_size(text: str) -> int:
    """`10GB` → bytes, 1024 base. Raises CommandError."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise CommandError(f"{text!r} is no size; write bytes, or like 500MB, 10GB", exit_code=2)
    return int(float(match[1]) * 1024 ** " KMGTP".index((match[2] or " ").upper()))
