"""`registry-quota gc verify`: what the registry's garbage collection really freed."""

import asyncio
import time
from typing import Annotated, Any

import typer

from cli.client import api_client
from cli.console import CommandError, console, emit_json, plain, table
from cli.options import AsJson, workspace_names
from cli.progress import progress
from quota.words import format_bytes, plural

commands = typer.Typer(
    help="The registry's garbage collection: it frees the disk, this says how much.",
    no_args_is_help=True,
)
Document = dict[str, Any]

_PATH = "/v1/gc/verifications"
_POLL = 0.25
_STALLED = 300.0


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="gc")


@commands.callback()
def group() -> None:
    """A group, although it has one command."""


@commands.command()
def verify(
    workspace: Annotated[
        str | None,
        typer.Option(
            "--workspace",
            "-w",
            help="Only what this workspace let go of.",
            autocompletion=workspace_names,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """After a collection: ask the registry for every blob that was freed.

    What is gone awaits collection no more. Exit 1 when something is still there or unknown.
    """
    outcome = asyncio.run(_verify(workspace))
    if as_json:
        emit_json(outcome)
    else:
        show(outcome)
    raise typer.Exit(1 if outcome["message"] or outcome["present"] or outcome["unknown"] else 0)


async def _verify(workspace: str | None) -> Document:
    body = {} if workspace is None else {"workspace": workspace}
    async with api_client() as api:
        now: Document = await api.call("POST", _PATH, body=body)
        with progress("asking the registry", unit="digests") as work:
            changed = time.monotonic()
            while now["state"] == "running":
                await asyncio.sleep(_POLL)
                before = now
                now = await api.call("GET", f"{_PATH}/{now['id']}")
                work.at(_done(now), now["predicted"])
                if now != before:
                    changed = time.monotonic()
                elif time.monotonic() - changed > _STALLED:
                    raise CommandError(
                        "nothing has moved for five minutes; see the API's log, run it again"
                    )
    return now


def _done(now: Document) -> int:
    return int(now["collected"] + now["present"] + now["unknown"])


def show(outcome: Document) -> None:
    """Predicted and verified, by workspace."""
    table(
        "",
        ["workspace", ">predicted", ">collected", ">still there", ">unknown"],
        [
            (
                item["workspace"],
                format_bytes(item["predicted_bytes"]),
                format_bytes(item["collected_bytes"]),
                format_bytes(item["present_bytes"]),
                format_bytes(item["unknown_bytes"]),
            )
            for item in outcome["workspaces"]
        ],
        names=["workspace"],
    )
    console.print(
        f"of {format_bytes(outcome['predicted_bytes'])} in {plural(outcome['predicted'], 'digest')} that awaited "
        f"collection, {format_bytes(outcome['collected_bytes'])} in {outcome['collected']} are gone",
        soft_wrap=True,
    )
    if outcome["present"]:
        console.print(
            f"[yellow]{plural(outcome['present'], 'blob')} still answer{'s' if outcome['present'] == 1 else ''}[/]: did the collection run after they "
            "were freed, and was the registry restarted after it? Its cache of blobs outlives a "
            "collection. docs/garbage-collection.md says how to run one.",
            soft_wrap=True,
        )
    if outcome["unknown"]:
        console.print(
            f"{plural(outcome['unknown'], 'digest')} could not be asked for, they stay counted as awaiting",
            soft_wrap=True,
        )
    if outcome["message"]:
        console.print(f"[bold red]stopped[/] {plain(outcome['message'])}", soft_wrap=True)
