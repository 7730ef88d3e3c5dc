"""`registry-quota plan` and `registry-quota cleanup`: what would go and why, and making room now."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from cli.client import ApiClient, api_client, workspace_path
from cli.console import console, emit_json, plain, size, table

Document = dict[str, Any]

REFUSALS: Final[Mapping[str, str]] = {
    # Breakers of the workspace's policy.
    "max_images_per_run": "the run would delete more images than the policy allows at once",
    "max_ratio_per_run": "the run would delete a larger share of the images than the policy allows",
    # Guards.
    "not_configured": "nobody has set this workspace's quota or policy yet",
    "stale_lease": "a source of digests in use has stopped reporting",
    "over_quota": "the incoming build alone is larger than the quota",
    "cleanup_running": "another process is cleaning this workspace",
    "deletes_disabled": "the registry does not delete: set `storage.delete.enabled: true` there",
}
"""Warnings that mean: deleting was refused, and it is meant to be (exit code 3)."""

FAULTS: Final[Mapping[str, str]] = {
    "registry_denied": "the registry refuses us: check its user name and password",
    "registry_unavailable": "the registry does not answer as it should",
    "still_changing": "the registry kept changing while it was being cleaned",
    "run_taken_over": "the run was given up by another process",
}
"""Warnings that mean: it did not work (exit code 1)."""

WorkspaceName = Annotated[str, typer.Argument(help="The workspace's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan", help="What a cleanup would delete and keep, and why. Deletes nothing.")(
        plan
    )
    app.command("cleanup", help="Delete what the policy allows until the target is reached.")(
        cleanup
    )


def plan(workspace: WorkspaceName, as_json: AsJson = False) -> None:
    """Every manifest with keep or delete, the reason, and the bytes it frees."""
    show_plan(asyncio.run(_plan(workspace)), as_json=as_json)


def cleanup(
    workspace: WorkspaceName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, max=600, help="Seconds to wait; the rest goes on behind.")
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Exit code 0 done, 1 something failed, 3 refused by a breaker or a guard."""
    if dry_run:
        document = asyncio.run(_plan(workspace))
        show_plan(document, as_json=as_json)
        raise typer.Exit(3 if document["blocks"] else 0)
    outcome, obstacle = asyncio.run(_clean(workspace, timeout))
    if as_json:
        emit_json(outcome)
    else:
        show_outcome(workspace, outcome, obstacle)
    raise typer.Exit(exit_code(outcome))


async def _plan(workspace: str) -> Document:
    async with api_client() as api:
        return await _post_plan(api, workspace)


async def _post_plan(api: ApiClient, workspace: str) -> Document:
    document: Document = await api.call("POST", workspace_path(workspace, "cleanup-plans"), body={})
    return document


async def _clean(workspace: str, timeout_s: float) -> tuple[Document, str | None]:
    """What was done, and why the target was not reached (None when it was)."""
    async with api_client() as api:
        with console.status(f"cleaning {plain(workspace)}"):
            outcome: Document = await api.call(
                "POST", workspace_path(workspace, "cleanups"), body={"timeout_s": timeout_s}
            )
        if outcome["target_reached"] or not outcome["done"]:
            return outcome, None
        # The answer names what stopped it; a fresh plan has the sentence for it.
        now = await _post_plan(api, workspace)
    sentences = [block["why"] for block in now["blocks"]]
    return outcome, "; ".join(sentences) or now["why_not"]


def exit_code(outcome: Document) -> int:
    """0 done, 1 failed (or not done yet), 3 refused by a breaker or a guard."""
    if not outcome["target_reached"] and REFUSALS.keys() & set(outcome["warnings"]):
        return 3
    if outcome["failed"] or not outcome["done"] or FAULTS.keys() & set(outcome["warnings"]):
        return 1
    return 0


def show_plan(document: Document, *, as_json: bool) -> None:
    """Print a plan: first what goes, in the order of deletion as the API gives it."""
    if as_json:
        emit_json(document)
        return
    images = sorted(document["images"], key=lambda image: image["action"] != "delete")
    table(
        "",
        ["", "image", ">frees", "why"],
        [_row(image["action"], image) for image in images],
    )
    going = sum(image["action"] == "delete" for image in images)
    console.print(
        f"{going} of {len(images)} manifests would go and free {size(document['freed_bytes'])}: "
        f"{size(document['usage_bytes'])} → {size(document['usage_after_bytes'])}, "
        f"target {size(document['target_bytes'])}",
        soft_wrap=True,
    )
    for block in document["blocks"]:
        console.print(f"[bold red]refused[/] {plain(block['code'])}: {plain(block['why'])}")
    if document["why_not"]:
        console.print(f"target not reached: {plain(document['why_not'])}", soft_wrap=True)


def show_outcome(workspace: str, outcome: Document, obstacle: str | None) -> None:
    """Print what a cleanup did, what it could not do, and why it stopped."""
    images: Sequence[Document] = outcome["images"]
    if images:
        table(
            "",
            ["", "image", ">freed", "why"],
            [_row("deleted", image) for image in images],
        )
    for item in outcome["failed"]:
        console.print(
            f"[bold red]failed[/] {plain(item['repository'])}@{plain(item['digest'])}: "
            f"{plain(item['reason'])}",
            soft_wrap=True,
        )
    for code in dict.fromkeys(outcome["warnings"]):
        meaning = REFUSALS.get(code) or FAULTS.get(code) or ""
        console.print(f"[yellow]{plain(code)}[/]{': ' if meaning else ''}{meaning}", soft_wrap=True)
    console.print(f"{plain(workspace)}: {_summary(outcome)}", soft_wrap=True)
    if obstacle:
        console.print(f"target not reached: {plain(obstacle)}", soft_wrap=True)


def _summary(outcome: Document) -> str:
    run = f" (run {plain(outcome['run_id'])})" if outcome["run_id"] else ""
    freed = f"freed {size(outcome['freed_bytes'])}"
    if not outcome["done"]:
        return f"{freed} so far; the cleanup goes on{run}"
    if not outcome["images"] and outcome["target_reached"]:
        return "nothing to do, the target is reached already"
    reached = "target reached" if outcome["target_reached"] else "target not reached"
    return f"{freed}, {reached}{run}"


def _row(action: str, image: Document) -> tuple[str, ...]:
    repository, tags = image["repository"], image["tags"]
    # The action stands in the column before it.
    why = image["why"].removeprefix("kept: ").removeprefix("deleted: ")
    return (
        action,
        f"{repository}:{', '.join(tags)}" if tags else f"{repository}@{image['digest'][:19]}",
        "" if action == "keep" else size(image["freed_bytes"]),
        why,
    )
