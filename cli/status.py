"""`registry-quota status`: is the pipeline healthy, in one screen."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import typer

from cli.client import api_client
from cli.console import console, emit_json, plain, table
from cli.options import AsJson
from runtime.figures import in_utc

Document = Mapping[str, Any]

MARKS: Final[Mapping[str, str]] = {
    "ok": "[green]✓ healthy[/]   ",
    "warning": "[yellow]! look at it[/]",
    "failed": "[bold red]✕ broken[/]    ",
    "unknown": "[dim]? not known[/] ",
}
_WHOLE: Final[Mapping[str, str]] = {
    "ok": "everything is healthy",
    "warning": "it works, and something needs a look",
    "failed": "something is broken",
    "unknown": "not everything is known just now",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(as_json: AsJson = False) -> None:
    """Is the pipeline healthy: every part, and what to do where it is not. As the page /pipeline.

    Exit code 0 when nothing is broken, else 1.
    """
    document = asyncio.run(_status())
    if as_json:
        emit_json(document)
    else:
        show(document)
    raise typer.Exit(1 if document["state"] == "failed" else 0)


async def _status() -> dict[str, Any]:
    async with api_client() as api:
        document: dict[str, Any] = await api.call("GET", "/v1/status")
        return document


def show(document: Document) -> None:
    """Print every part, the partitions that are behind, and recent errors."""
    width = max(len(check["title"]) for check in document["checks"])
    for check in document["checks"]:
        console.print(
            f"{MARKS[check['state']]}  {check['title']:<{width}}  {plain(check['found'])}",
            soft_wrap=True,
        )
        if check["mend"]:
            console.print(f"{'':<{width + 16}}[bold]→[/] {plain(check['mend'])}", soft_wrap=True)
    if behind := [item for item in document["partition_lag"] if item["lag_events"]]:
        console.print()
        table(
            "",
            [">partition", ">events", ">waiting", ">for"],
            [
                (
                    item["partition"],
                    item["end_offset"],
                    item["lag_events"],
                    "?" if item["lag_seconds"] is None else f"{item['lag_seconds']:.1f} s",
                )
                for item in behind
            ],
        )
    if document["recent_errors"]:
        console.print()
        table(
            "",
            ["at (UTC)", "level", ">times", "what"],
            [
                (in_utc(item["at"], seconds=True), item["level"], item["times"], item["what"])
                for item in document["recent_errors"]
            ],
        )
    console.print(f"[bold]{_WHOLE[document['state']]}[/]")
