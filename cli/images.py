"""`registry-quota images`: what a workspace stores, and how old a person says that it is."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from cli.client import ApiError, api_client, workspace_path
from cli.console import CommandError, console, emit_json, table, tell_cut
from cli.options import AsJson, WorkspaceName
from cli.progress import progress
from quota.words import format_bytes
from runtime.figures import in_utc

_REFUSED: Final = 409


class _Group(TyperGroup):
    """`images WORKSPACE` is `images list WORKSPACE`: the command is older than its relatives."""

    usual = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What is no command of the group is the list's."""
        if args and args[0] not in self.commands and not {"-h", "--help"} & set(args[:1]):
            args = [self.usual, *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


commands = typer.Typer(cls=_Group, no_args_is_help=True, help="What workspaces store.")


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="images")


@commands.command("list")
def images(
    workspace: WorkspaceName,
    app: Annotated[str | None, typer.Option(help="Only this app.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only what this tag names.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """What a workspace stores, newest push first; `images WORKSPACE` is the same.

    List images with their sizes and what deleting just them would free.
    """
    items, more = asyncio.run(_load(workspace, app, tag, limit))
    if more:
        tell_cut(limit)
    if as_json:
        emit_json(items)
        return
    table(
        "",
        ["repository", "tags", "kind", "digest", ">size", ">unique", "pushed (UTC)"],
        [
            (
                item["repository"],
                " ".join(item["tags"]) or "-",
                item["kind"] or "not known",
                item["digest"][:19],
                "pending" if item["size_pending"] else format_bytes(item["size_bytes"]),
                format_bytes(item["unique_bytes"]),
                "-" if item["pushed_at"] is None else in_utc(item["pushed_at"]),
            )
            for item in items
        ],
        names=["digest"],
        usual={"kind": "image"},
    )


@commands.command("date")
def date(
    workspace: WorkspaceName,
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE]",
            help="REPOSITORY:TAG, REPOSITORY@DIGEST or DIGEST; left out with --all-unknown.",
        ),
    ] = None,
    to: Annotated[
        datetime | None,
        typer.Option(
            "--to",
            metavar="DATE",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"],
            help="How old it is, in UTC: 2025-03-31 or 2025-03-31T12:00:00. Needed.",
        ),
    ] = None,
    all_unknown: Annotated[
        bool, typer.Option("--all-unknown", help="Every image whose age is not known.")
    ] = False,
    app: Annotated[
        str | None, typer.Option(help="With --all-unknown: only those of this app.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how old an image is that nobody knows it of, so that it may be cleaned in its turn.

    What has no age is never cleaned. It gets one by its next push, or here. Children and referrers
    that have none are dated with it. Exit code 3: its age is known from its tags.
    """
    if to is None:
        raise CommandError("say how old it is: --to 2025-03-31", exit_code=2)
    if (image is None) != all_unknown:
        raise CommandError("give either an image or --all-unknown", exit_code=2)
    date = to.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
    body = {"date": date, "image": image, "app": app}
    document = asyncio.run(_date(workspace, body))
    if as_json:
        emit_json(document)
        return
    table(
        "",
        ["repository", "tags", "digest", "dated (UTC)"],
        [
            (
                item["repository"],
                " ".join(item["tags"]) or "-",
                item["digest"][:19],
                "-" if item["named_at"] is None else in_utc(item["named_at"]),
            )
            for item in document["images"]
        ],
        names=["digest"],
    )
    console.print(f"{document['dated']} dated")


async def _date(workspace: str, body: dict[str, str | None]) -> dict[str, Any]:
    given = {name: value for name, value in body.items() if value is not None}
    try:
        async with api_client() as api:
            answer: dict[str, Any] = await api.call(
                "POST", workspace_path(workspace, "image-dates"), body=given
            )
    except ApiError as error:
        if error.status == _REFUSED:
            raise CommandError(str(error), exit_code=3) from error
        raise
    return answer


async def _load(
    workspace: str, app: str | None, tag: str | None, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """(images, whether there are more)"""
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
    return items, cursor is not None
