"""`registry-quota tokens create|list|revoke`."""

import asyncio
import re
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.client import api_client
from cli.console import CommandError, console, emit_json, errors, plain, table
from cli.options import AsJson, workspace_names
from runtime.figures import in_utc

commands = typer.Typer(
    help="Who may call the API, for which workspaces, until when.", no_args_is_help=True
)

_DURATION = re.compile(r"^(\d+)\s*([smhdw])$", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="tokens")


@commands.command()
def create(
    scope: Annotated[
        list[str], typer.Option(help="read, hook, write or admin; several, or by commas.")
    ],
    workspace: Annotated[
        list[str] | None,
        typer.Option(
            help="What it is good for; several times for several.",
            autocompletion=workspace_names,
        ),
    ] = None,
    all_workspaces: Annotated[
        bool, typer.Option("--all-workspaces", help="Instead of --workspace.")
    ] = False,
    name: Annotated[str, typer.Option(help="For whom it is; shown in lists.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", "--ttl", help="In how long, like 12h or 90d (never).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Its text is printed now (alone on standard output) and never again."""
    if bool(workspace) == all_workspaces:
        raise CommandError("give --workspace NAME, or --all-workspaces on purpose", exit_code=2)
    body: dict[str, Any] = {
        "scopes": [part.strip() for text in scope for part in text.split(",") if part.strip()],
        "workspaces": workspace or None,
        "name": name,
        "ttl_s": None if expires is None else parse_duration(expires),
    }
    answer = asyncio.run(_call("POST", "/v1/tokens", body))
    if as_json:
        emit_json(answer)
        return
    errors.print(
        f"token {plain(answer['id'])}: {', '.join(answer['scopes'])} on "
        f"{plain(_workspaces(answer))}, expires {_until(answer['expires_at'])}. "
        "Keep it now: it cannot be shown again."
    )
    print(answer["token"])


@commands.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """Every token, newest first, without its secret."""
    items = asyncio.run(_all())
    items.sort(key=lambda item: (item["created_at"], item["id"]), reverse=True)
    if as_json:
        emit_json(items)
        return
    table(
        "",
        ["id", "name", "scopes", "workspaces", "state", "expires (UTC)", "last used (UTC)"],
        [
            (
                item["id"],
                item["name"],
                ",".join(item["scopes"]),
                _workspaces(item),
                item["state"],
                _minute(item["expires_at"]),
                _minute(item["last_used_at"]),
            )
            for item in items
        ],
        names=["id"],
    )


@commands.command()
def revoke(
    token_id: Annotated[
        str, typer.Argument(metavar="ID", help="As `tokens list` shows it, or the whole token.")
    ],
    as_json: AsJson = False,
) -> None:
    """End a token: from the next call on nobody is let in by it."""
    if token_id.startswith("rq_"):
        token_id = token_id.split("_")[1]
    asyncio.run(_call("DELETE", f"/v1/tokens/{quote(token_id, safe='')}"))
    if as_json:
        emit_json({"id": token_id, "revoked": True})
        return
    console.print(f"token {plain(token_id)} is revoked")


def parse_duration(text: str) -> int:
    """`90d` → seconds. Raises CommandError."""
    match = _DURATION.match(text.strip())
    if match is None:
        raise CommandError(f"{text!r} is no duration; write like 30m, 12h, 90d", exit_code=2)
    return int(match[1]) * _SECONDS[match[2].lower()]


async def _call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    async with api_client() as api:
        return await api.call(method, path, body=body)


async def _all() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    async with api_client() as api:
        while True:
            page = await api.call("GET", "/v1/tokens", query={"limit": 1000, "cursor": cursor})
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items


def _workspaces(item: dict[str, Any]) -> str:
    return "all workspaces" if item["workspaces"] is None else ", ".join(item["workspaces"])


def _until(told: str | None) -> str:
    return "never" if told is None else f"{in_utc(told)} UTC"


def _minute(told: str | None) -> str:
    return "-" if told is None else in_utc(told)
