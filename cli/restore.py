"""`registry-quota restore`: puts back what a cleanup deleted, while its blobs are there."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from cli.client import ApiClient, ApiError, api_client, workspace_path
from cli.console import CommandError, console, emit_json, plain, table
from cli.options import AsJson, workspace_names
from cli.progress import progress, watched

Document = dict[str, Any]

_NOT_HERE: Final = 404
_REFUSED: Final = 409
_PAGE: Final = 1000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("restore")(restore)


def restore(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|IMAGE",
            help="A cleanup's id, or REPOSITORY:TAG, REPOSITORY@DIGEST or DIGEST.",
        ),
    ],
    workspace: Annotated[
        str | None,
        typer.Option(
            "--workspace",
            "-w",
            help="Where to look; else everywhere.",
            autocompletion=workspace_names,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put back what a cleanup deleted: a whole run, or one image.

    Exit code 0 all of it is there, 1 something is lost or failed, 3 the cleanup still runs.
    """
    document = asyncio.run(_restore(what, workspace))
    if as_json:
        emit_json(document)
    else:
        show(document)
    raise typer.Exit(1 if document["lost"] or document["failed"] else 0)


async def _restore(what: str, workspace: str | None) -> Document:
    body = {"run": what} if _is_run(what) else {"image": what}
    async with api_client() as api:
        if workspace is not None:
            return await _ask(api, workspace, body)
        # The one that the name speaks of first; a mapped repository may be anywhere.
        tried = what.partition("/")[0]
        places = [tried] if "/" in what else []
        places += [name async for name in _workspaces(api) if name != tried]
        why = ""
        for name in places:
            try:
                return await _ask(api, name, body)
            except ApiError as error:
                if error.status != _NOT_HERE:
                    raise
                if name == tried:  # it knows what the name may have been meant to be
                    why = f"; {name}: {error}"
    kind = "cleanup" if "run" in body else "image that a cleanup has deleted"
    raise CommandError(f"there is no such {kind} in any workspace of this token{why}")


async def _ask(api: ApiClient, workspace: str, body: Document) -> Document:
    asked = asyncio.ensure_future(
        api.call("POST", workspace_path(workspace, "restores"), body=body)
    )
    try:
        with progress(f"restoring in {workspace}", unit="manifests") as work:

            async def look() -> None:
                if "run" in body:
                    work.at(*await _progress(api, workspace, body["run"]))

            document: Document = await watched(asked, look)
    except ApiError as error:
        if error.status == _REFUSED:
            raise CommandError(str(error), exit_code=3) from error
        raise
    return document


async def _progress(api: ApiClient, workspace: str, run: str) -> tuple[int, int | None]:
    """(manifests put back so far, manifests that the run deleted)."""
    try:
        items = (await api.call("GET", workspace_path(workspace, "cleanups", run)))["items"]
    except CommandError:
        return 0, None  # the restore itself says what is wrong
    states = [item["state"] for item in items]
    back = states.count("restored")
    return back, back + states.count("deleted")


async def _workspaces(api: ApiClient) -> AsyncIterator[str]:
    cursor = None
    while True:
        page = await api.call("GET", "/v1/workspaces", query={"limit": _PAGE, "cursor": cursor})
        for item in page["items"]:
            yield item["workspace"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _is_run(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def show(document: Document) -> None:
    """Print what became of each manifest."""
    table(
        "",
        ["", "image", "why"],
        [(image["state"], _name(image), image["why"]) for image in document["images"]],
        names=["image"],
    )
    for image in document["images"]:
        for digest in image["missing"]:
            console.print(f"  missing for {plain(_name(image))}: {plain(digest)}", soft_wrap=True)
    console.print(
        f"{plain(document['workspace'])}: {document['restored']} put back,"
        f" {document['present']} were there, {document['lost']} lost, {document['failed']} failed",
        soft_wrap=True,
    )
    if "above_trigger" in document["warnings"]:
        console.print(
            "usage is above the trigger again, and what was put back is as old as it was:"
            " the next cleanup begins with it",
            soft_wrap=True,
        )


def _name(image: Document) -> str:
    if image["tags"]:
        return f"{image['repository']}:{', '.join(image['tags'])}"
    return f"{image['repository']}@{image['digest'][:19]}"
