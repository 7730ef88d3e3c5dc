"""`registry-quota leases put|list|retire`: which digests are in use, and who says so."""

import asyncio
import re
import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.client import ApiClient, api_client, workspace_path
from cli.console import CommandError, console, emit_json, errors, plain, table
from cli.options import AsJson, WorkspaceName, workspace_names
from quota.words import plural
from runtime.figures import in_utc

commands = typer.Typer(
    help="Digests in use: cleanup leaves them alone, and everything while nobody knows.",
    no_args_is_help=True,
)

_DURATION = re.compile(r"(\d{1,8})([smhd]?)", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHOWN = 3


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="leases")


@commands.command()
def put(
    workspaces: Annotated[
        list[str],
        typer.Argument(help="One workspace or several.", autocompletion=workspace_names),
    ],
    source: Annotated[str, typer.Option(help="Who reports, such as the cluster's name.")],
    ttl: Annotated[
        str, typer.Option(help="Until when it must report again: seconds, or 30m, 2h, 1d.")
    ] = "1h",
    skip_tags: Annotated[
        bool, typer.Option("--skip-tags", help="Leave out references without a digest.")
    ] = False,
    empty: Annotated[
        bool, typer.Option("--empty", help="Nothing is in use: an empty input is meant to be.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report the digests on standard input: sha256:…, repo@sha256:…, docker-pullable://…

    They replace what the source said before. An empty input is refused: it is more likely that the
    command before the pipe failed than that nothing runs.
    """
    ttl_s = parse_duration(ttl)
    digests = _read(_standard_input(empty=empty), skip_tags=skip_tags)
    if not digests and not empty:
        raise CommandError(
            "no digest on standard input, so nothing is reported; say --empty if nothing is in use",
            exit_code=2,
        )
    body = {"source": source, "digests": digests, "ttl_s": ttl_s}

    async def report(api: ApiClient, workspace: str) -> dict[str, Any]:
        answer = await api.call("POST", workspace_path(workspace, "leases"), body=body)
        return {"workspace": workspace, **answer}

    async def reports() -> list[dict[str, Any]]:
        async with api_client() as api:
            return [await report(api, workspace) for workspace in workspaces]

    answers = asyncio.run(reports())
    if as_json:
        emit_json(answers)
        return
    for answer in answers:
        console.print(
            f"{plain(answer['workspace'])}: {plural(len(answer['digests']), 'digest')} in use by "
            f"{plain(source)} until {in_utc(answer['expires_at'])} UTC, "
            f"{answer['known_digests']} of them known here"
        )


@commands.command("list")
def list_leases(workspace: WorkspaceName, as_json: AsJson = False) -> None:
    """Every source, and whether it still reports."""

    async def get() -> list[dict[str, Any]]:
        async with api_client() as api:
            return [item async for item in api.items(workspace_path(workspace, "leases"))]

    items = asyncio.run(get())
    if as_json:
        emit_json(items)
        return
    table(
        "",
        ["source", ">digests", "reported (UTC)", "good until (UTC)", "state"],
        [
            (
                item["source"],
                len(item["digests"]),
                in_utc(item["reported_at"]),
                in_utc(item["expires_at"]),
                "stale: nothing is deleted" if item["stale"] else "reports",
            )
            for item in items
        ],
        names=["source"],
    )


@commands.command()
def retire(
    workspace: WorkspaceName,
    source: Annotated[str, typer.Argument(help="The source that will not report any more.")],
    as_json: AsJson = False,
) -> None:
    """Forget a source: what it had in use is not protected any more."""

    async def delete() -> None:
        async with api_client() as api:
            path = workspace_path(workspace, "leases", quote(source, safe=""))
            await api.call("DELETE", path)

    asyncio.run(delete())
    if as_json:
        emit_json({"workspace": workspace, "source": source, "retired": True})
        return
    console.print(f"{plain(workspace)}: {plain(source)} is retired")


def _standard_input(*, empty: bool) -> str:
    """What came in; on a terminal somebody has to be told that it is waited for."""
    if sys.stdin.isatty():
        if empty:
            return ""
        errors.print("digests, one a line; Ctrl-D ends them", soft_wrap=True)
    return sys.stdin.read()


def _read(text: str, *, skip_tags: bool) -> list[str]:
    """The digests in a text, each once. Raises CommandError for what has none."""
    from registry.names import InvalidDigest, format_digest
    from registry.references import digest_of, split_references

    digests: dict[str, None] = {}
    tags: list[str] = []
    for reference in split_references(text):
        try:
            digest = digest_of(reference)
        except InvalidDigest as error:
            raise CommandError(str(error), exit_code=2) from error
        if digest is None:
            tags.append(reference)
        else:
            digests[format_digest(digest)] = None
    if tags:
        named = ", ".join(tags[:_SHOWN]) + (" …" if len(tags) > _SHOWN else "")
        if not skip_tags:
            raise CommandError(
                f"{len(tags)} references name no digest ({named}): a tag can move, so it protects "
                "nothing; give digests, or --skip-tags to leave them out",
                exit_code=2,
            )
        errors.print(f"left out, no digest: {plain(named)}", soft_wrap=True)
    return list(digests)


def parse_duration(text: str) -> int:
    """`90`, `30m`, `2h`, `1d` → seconds. Raises CommandError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise CommandError(f"{text!r} is no time; write seconds, or like 30m, 2h, 1d", exit_code=2)
    return int(match[1]) * _SECONDS[match[2]]
