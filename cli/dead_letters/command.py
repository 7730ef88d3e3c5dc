"""The commands: what is asked, and how it looks."""

import asyncio
import base64
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.text import Text

from cli.client import settings_here, warn_of_unknown
from cli.console import (
    CommandError,
    console,
    emit_json,
    harmless,
    plain,
    second_of,
    table,
    tell_cut,
)
from cli.options import AsJson, OnlyWorkspace
from cli.progress import progress
from quota.words import format_bytes, plural
from runtime.figures import in_utc

if TYPE_CHECKING:
    from cli.dead_letters.desk import Desk, Found, Retried, Wanted
    from cli.dead_letters.letters import DeadLetter
    from ledger.handled import Handled

commands = typer.Typer(help="What could not be processed.", no_args_is_help=True)

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="As the list shows them: 3-17.")
]
All = Annotated[bool, typer.Option("--all", help="Everything that nobody has dealt with.")]
Reason = Annotated[str | None, typer.Option(help="Only those whose reason holds this text.")]

_SHOWN_BYTES = 4000
_REFUSALS_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="dead-letters")


@commands.callback()
def group() -> None:
    """What the receiver or the consumer could not process, with the reason.

    Dead letters stay in their Kafka topic. Retrying or dropping one marks it as handled.
    """


@commands.command("list")
def list_letters(
    reason: Reason = None,
    workspace: OnlyWorkspace = None,
    handled: Annotated[
        bool, typer.Option("--handled", help="Also those that were retried or dropped.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Newest first."""
    from cli.dead_letters.desk import matching

    total, dealt_with, found = asyncio.run(
        _list(matching(reason, workspace), workspace, limit + 1, also_handled=handled)
    )
    more, found = len(found) > limit, found[:limit]
    if more:
        tell_cut(limit)
    if as_json:
        emit_json(
            {
                "total": total,
                "handled": dealt_with,
                "open": total - dealt_with,
                "items": [_document(letter, mark) for letter, mark in found],
                "more": more,
            }
        )
        return
    if found:
        table(
            "",
            ["id", "first seen (UTC)", "registry", "workspace", ">size", "reason", "state"],
            [
                (
                    letter.id,
                    second_of(letter.first_seen),
                    letter.source,
                    letter.workspace or "-",
                    format_bytes(letter.size),
                    letter.reason,
                    "open" if mark is None else mark.outcome,
                )
                for letter, mark in found
            ],
            names=["id"],
        )
    elif total and (reason is not None or workspace is not None):
        console.print("none of them match")
    console.print(f"{total - dealt_with} open, {dealt_with} handled")


async def _list(
    wanted: "Wanted", workspace: str | None, limit: int, *, also_handled: bool
) -> tuple[int, int, "list[Found]"]:
    from cli.dead_letters.desk import desk

    await warn_of_unknown([] if workspace is None else [workspace])
    async with desk(settings_here()) as work:
        extents = await work.extents()
        total = sum(len(extent) for extent in extents.values())
        dealt_with = await work.count_handled(extents)
        return total, dealt_with, await work.newest(limit, wanted, also_handled=also_handled)


@commands.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it: 3-17.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only its bytes, as they came.")] = False,
    as_json: AsJson = False,
) -> None:
    """One dead letter: why, since when, what it holds, and whether retrying it would work."""
    place = _places([letter_id])[0]
    if raw and sys.stdout.isatty():
        raise CommandError(
            "its bytes could steer this terminal: send them to a file or a pipe (`| less`, `> FILE`)",
            exit_code=2,
        )
    letter, mark, verdict = asyncio.run(_show(place))
    if raw:
        sys.stdout.buffer.write(letter.value)
        return
    if as_json:
        emit_json(
            {**_document(letter, mark), "retriable": verdict is None, "still_wrong": verdict}
            | _value(letter)
        )
        return
    state = "open" if mark is None else f"{mark.outcome} {in_utc(mark.at, seconds=True)} UTC"
    for name, content in (
        ("id", letter.id),
        ("state", state),
        ("reason", letter.reason),
        ("origin", letter.origin),
        ("first seen", f"{second_of(letter.first_seen)} UTC"),
        ("registry", letter.source),
        ("workspace", letter.workspace or "-"),
        ("size", format_bytes(letter.size)),
        ("retry", "would work now" if verdict is None else f"would be refused: {verdict}"),
    ):
        console.print(f"[bold]{name:<10}[/] {plain(content)}", soft_wrap=True)
    console.print()
    for line in _readable(letter.value).split("\n"):
        console.print(Text(harmless(line)), soft_wrap=True)


async def _show(place: tuple[int, int]) -> "tuple[DeadLetter, Handled | None, str | None]":
    from cli.dead_letters.desk import desk
    from cli.dead_letters.letters import StillBadError, messages_for
    from registry.workspaces import WorkspaceRule

    settings = settings_here()
    async with desk(settings) as work:
        letter, mark = await work.one(place)
    try:
        messages_for(letter, WorkspaceRule(settings.workspace_pattern))
    except StillBadError as error:
        return letter, mark, str(error)
    return letter, mark, None


@commands.command()
def retry(
    ids: Ids = None,
    every: All = False,
    reason: Reason = None,
    workspace: OnlyWorkspace = None,
    as_json: AsJson = False,
) -> None:
    """Publish the original events again. Exit code 3: some are still as wrong as before."""
    from cli.dead_letters.desk import Retried

    places = _chosen(ids, every=every, reason=reason, workspace=workspace)
    outcome = Retried()
    asyncio.run(_retry(places, reason, workspace, outcome))
    if as_json:
        emit_json(_retried_document(outcome))
    else:
        _print_retried(outcome)
    raise typer.Exit(3 if outcome.refused else 0)


async def _retry(
    places: Sequence[tuple[int, int]],
    reason: str | None,
    workspace: str | None,
    outcome: "Retried",
) -> None:
    from cli.dead_letters.desk import desk

    async with desk(settings_here()) as work:
        if places:
            await work.retry([(await work.one(place))[0] for place in places], outcome)
            return
        async for letters in _batches(work, reason, workspace, "retrying"):
            await work.retry(letters, outcome)


@commands.command()
def drop(
    ids: Ids = None,
    every: All = False,
    reason: Reason = None,
    workspace: OnlyWorkspace = None,
    as_json: AsJson = False,
) -> None:
    """Mark as handled without doing anything. They stay readable (`list --handled`, `show`)."""
    places = _chosen(ids, every=every, reason=reason, workspace=workspace)
    dropped = asyncio.run(_drop(places, reason, workspace))
    if as_json:
        emit_json({"dropped": dropped})
    else:
        console.print(f"{len(dropped)} dropped")


async def _drop(
    places: Sequence[tuple[int, int]], reason: str | None, workspace: str | None
) -> list[str]:
    from cli.dead_letters.desk import desk

    dropped: list[str] = []
    async with desk(settings_here()) as work:
        if places:
            letters = [(await work.one(place))[0] for place in places]
            await work.mark(letters, "dropped")
            return [letter.id for letter in letters]
        async for letters in _batches(work, reason, workspace, "dropping"):
            await work.mark(letters, "dropped")
            dropped += [letter.id for letter in letters]
    return dropped


async def _batches(
    work: "Desk", reason: str | None, workspace: str | None, what: str
) -> Any:  # an async iterator
    from cli.dead_letters.desk import matching

    await warn_of_unknown([] if workspace is None else [workspace])
    extents = await work.extents()
    total = sum(len(extent) for extent in extents.values()) - await work.count_handled(extents)
    with progress(what, total, unit="dead letters") as work_done:
        async for letters in work.open_letters(matching(reason, workspace)):
            if letters:
                yield letters
                work_done.advance(len(letters))


def _chosen(
    ids: list[str] | None, *, every: bool, reason: str | None, workspace: str | None
) -> list[tuple[int, int]]:
    """The places that were named; none: all that match. Raises CommandError (usage)."""
    if bool(ids) == every:
        raise CommandError("name dead letters by their ids, or say --all", exit_code=2)
    if ids and (reason is not None or workspace is not None):
        raise CommandError("--reason and --workspace choose among --all", exit_code=2)
    return _places(ids or [])


def _places(ids: Sequence[str]) -> list[tuple[int, int]]:
    from cli.dead_letters.letters import parse_id

    try:
        return [parse_id(text) for text in dict.fromkeys(ids)]
    except ValueError as error:
        raise CommandError(str(error), exit_code=2) from error


def _document(letter: "DeadLetter", mark: "Handled | None") -> dict[str, Any]:
    return {
        "id": letter.id,
        "partition": letter.partition,
        "offset": letter.offset,
        "state": "open" if mark is None else mark.outcome,
        "handled_at": None if mark is None else mark.at.isoformat(),
        "reason": letter.reason,
        "origin": letter.origin,
        "first_seen": letter.first_seen,
        "source": letter.source,
        "workspace": letter.workspace or None,
        "size_bytes": letter.size,
    }


def _value(letter: "DeadLetter") -> dict[str, str]:
    try:
        return {"value": letter.value.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(letter.value).decode(), "encoding": "base64"}


def _readable(value: bytes) -> str:
    """JSON in lines, everything else as text; not more than fits a screen or two."""
    with contextlib.suppress(msgspec.DecodeError):
        value = msgspec.json.format(value, indent=2)
    lines = value[:_SHOWN_BYTES].decode(errors="replace")
    rest = len(value) - _SHOWN_BYTES
    return f"{lines}\n… and {format_bytes(rest)} more (--raw)" if rest > 0 else lines


def _retried_document(outcome: "Retried") -> dict[str, Any]:
    return {
        "retried": outcome.retried,
        "events": outcome.events,
        "new_dead_letters": outcome.new_dead_letters,
        "refused": [{"id": name, "why": why} for name, why in outcome.refused],
    }


def _print_retried(outcome: "Retried") -> None:
    for name, why in outcome.refused[:_REFUSALS_SHOWN]:
        console.print(f"[yellow]refused[/] {name}: {plain(why)}", soft_wrap=True)
    if (more := len(outcome.refused) - _REFUSALS_SHOWN) > 0:
        console.print(f"[yellow]refused[/] and {more} more")
    text = f"{len(outcome.retried)} retried, {plural(outcome.events, 'event')} published again"
    if outcome.new_dead_letters:
        text += f", {outcome.new_dead_letters} of their events are dead letters of their own now"
    if outcome.refused:
        text += f", {len(outcome.refused)} refused: they are as wrong as before (drop them?)"
    console.print(text, soft_wrap=True)
