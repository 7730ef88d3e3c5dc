"""How the demo looks: on a terminal with a progress bar, in a log as plain lines."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.console import console, plain, table
from cli.demo.check import ManifestName, Verdict, manifest_name
from cli.events import one_line
from quota.words import format_bytes
from runtime.figures import percent

Document = Mapping[str, Any]
Names = Mapping[ManifestName, str]

_CELLS: Final = 16
_LEVEL_COLOUR: Final = {"ok": "green", "warning": "yellow", "critical": "red", "exceeded": "red"}
_LOG_WIDTH: Final = 120


def begin() -> None:
    """A log has no width of its own, and 80 columns would break every row."""
    if not console.is_terminal:
        console.width = _LOG_WIDTH


def heading(text: str) -> None:
    """The next step of the story."""
    _line(f"\n[bold cyan]{plain(text)}[/]")


def note(text: str) -> None:
    """A sentence."""
    _line(plain(text))


def aside(text: str, /) -> None:
    """What matters less: the stack's own lines."""
    _line(f"[dim]{plain(text)}[/]")


def command(text: str) -> None:
    """Something to copy into a shell: never broken."""
    console.print(f"  [green]{plain(text)}[/]", soft_wrap=True)


def _line(markup: str) -> None:
    """Broken between words on a terminal, not at all in a log."""
    console.print(markup, soft_wrap=not console.is_terminal)


@contextmanager
def pushing(total: int) -> Iterator[Progress]:
    """A progress bar below the lines, on a terminal; advance its only task."""
    columns = (
        TextColumn("pushing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task("", total=total)
    with bar:
        yield bar


def pushed(name: str, usage: Document, remark: str) -> None:
    """One line for a push that the ledger shows: usage bar and level."""
    used, quota, level = usage["usage_bytes"], usage["quota_bytes"], usage["level"]
    filled = min(_CELLS, used * _CELLS // quota)
    colour = _LEVEL_COLOUR[level]
    console.print(
        f"  {plain(name):<22} [{colour}]{'█' * filled}[/][dim]{'░' * (_CELLS - filled)}[/]"
        f" {percent(used, quota):>7} {format_bytes(used):>7}  [{colour}]{level}[/]"
        f"[dim]{plain(f', {remark}' if remark else '')}[/]",
        no_wrap=True,
        overflow="ellipsis",
    )


def event(document: dict[str, Any]) -> None:
    """Level changes, cleanups and denials as they come. Images are many: only the end counts them."""
    if not document["type"].startswith("io.registryquota.image."):
        _line(f"  [bold]event[/] {one_line(document)}")


def names_of(images: Iterable[Document]) -> dict[ManifestName, str]:
    """What the tables call each manifest of `GET …/images`."""
    images = list(images)
    tagged = {
        item["digest"]: f"{item['app']}:{' '.join(item['tags'])}" for item in images if item["tags"]
    }
    names = {}
    for item in images:
        parents = [
            reason.removeprefix("index:")
            for reason in item["protected_by"]
            if reason.startswith("index:")
        ]
        if item["digest"] in tagged:
            name = tagged[item["digest"]]
        elif parents:
            name = f"child of {tagged.get(parents[0], 'an untagged index')}"
        else:
            name = f"{item['app']} (untagged)"
        names[manifest_name(item)] = name
    return names


def ledger(images: Iterable[Document], names: Names) -> None:
    """What the workspace stores, newest push first."""
    table(
        "",
        ["image", "digest", ">size", ">only here", "pushed (UTC)"],
        [
            (
                names[manifest_name(item)],
                item["digest"][:19],
                format_bytes(item["size_bytes"]),
                format_bytes(item["unique_bytes"]),
                item["pushed_at"][11:23],
            )
            for item in images
        ],
    )


def plan(document: Document, names: Names) -> None:
    """Every image with keep or delete, and why, in the order of the ledger's table."""
    images = {manifest_name(image): image for image in document["images"]}
    table(
        "",
        ["image", "plan", ">frees", "why"],
        [
            (
                names[name],
                images[name]["action"],
                format_bytes(images[name]["freed_bytes"]),
                _reason(images[name]["why"]),
            )
            for name in names
            if name in images
        ],
    )


def deleted(hook: Document, names: Names) -> None:
    """What went, and why."""
    table(
        "",
        ["deleted", ">freed", "why"],
        [
            (names[manifest_name(image)], format_bytes(image["freed_bytes"]), _reason(image["why"]))
            for image in hook["cleanup"]["images"]
        ],
    )


def kept(images: Iterable[Document], document: Document, names: Names) -> None:
    """What stayed with a tag, and why the plan kept it."""
    why = {manifest_name(image): _reason(image["why"]) for image in document["images"]}
    table(
        "",
        ["kept", ">size", "why"],
        [
            (names[name], format_bytes(item["size_bytes"]), why[name])
            for item in images
            if item["tags"] and (name := manifest_name(item)) in why
        ],
    )


def _reason(why: str) -> str:
    """The column says already that it was kept or deleted."""
    return why.removeprefix("kept: ").removeprefix("deleted: ")


def verdicts(items: Iterable[Verdict]) -> None:
    """A ✓ line for each promise that held, a ✗ line with the differences for each that did not."""
    for verdict in items:
        if verdict.held:
            _line(f"  [green]✓[/] {plain(verdict.promise)}")
            continue
        _line(f"  [bold red]✗ not so:[/] {plain(verdict.promise)}")
        for difference in verdict.differences:
            _line(f"      [red]{plain(difference)}[/]")


def end(*, held: bool, seconds: float) -> None:
    """The last line of the story."""
    if held:
        _line(f"\n[bold green]All of it held.[/] {seconds:.1f} s in all.")
    else:
        _line(f"\n[bold red]Not all of it held[/] (see ✗ above). {seconds:.1f} s in all.")


def where(address: str, workspace: str, *, connected: bool, own: bool) -> None:
    """Where to look at what is there now, how to sign in, how to stop."""
    token = "an API token" if connected else "the token of `grep RQ_API_TOKEN .run/env`"
    if own:
        note("This stack ends now and its data stays. `make run` starts it again; then look at")
    else:
        note("Look at")
    _line(
        f"  {plain(f'{address}/workspaces/{workspace}')} in a browser, signed in with {token}, or"
    )
    _line(f"  registry-quota images {plain(workspace)}    registry-quota plan {plain(workspace)}")
    if not (own or connected):
        note("Ctrl-C in the terminal of `make run` stops everything.")
