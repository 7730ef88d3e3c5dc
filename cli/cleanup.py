"""`registry-quota plan` and `registry-quota cleanup`: what would go and why, and making room now."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, NoReturn
from uuid import UUID

import typer
from rich.console import Console

from cli.client import ApiClient, ApiError, api_client, workspace_path
from cli.console import (
    CommandError,
    ago,
    console,
    emit_json,
    errors,
    image_name,
    plain,
    table,
)
from cli.options import AsJson, WorkspaceName
from cli.progress import Work, progress, watched
from cli.workspaces import parse_size
from quota.going import Going, going_of
from quota.words import format_bytes, plural
from runtime.figures import in_utc

Document = dict[str, Any]

REFUSALS: Final[Mapping[str, str]] = {
    # Breakers of the workspace's policy.
    "max_images_per_run": "the run would delete more images than the policy allows at once",
    "max_ratio_per_run": "the run would delete a larger share of the images than the policy allows",
    # Guards.
    "database_older": "an older backup of the database was put back, and nobody has confirmed what it lacks"
    " (`registry-quota reconcile --confirm-restored`)",
    "not_configured": "nobody has set this workspace's quota or policy yet",
    "stale_lease": "a source of digests in use has stopped reporting",
    "over_quota": "the incoming build alone is larger than the quota",
    "cleanup_running": "another process is cleaning this workspace",
    "rules_changed": "quota or policy was changed while the plan was carried out; the rest stays",
    "pull_through_cache": "the registry is a pull-through cache, which deletes for nobody: it forgets by"
    " itself (`proxy.ttl`)",
    "deletes_disabled": "the registry does not delete: set `storage.delete.enabled: true` there",
}
"""Warnings that mean: deleting was refused, and it is meant to be (exit code 3)."""

FAULTS: Final[Mapping[str, str]] = {
    "registry_denied": "the registry refuses us: check its user name and password",
    "registry_unavailable": "the registry does not answer as it should",
    "still_changing": "the registry kept changing while it was being cleaned",
    "run_taken_over": "the run was taken over by another process",
    "interrupted": "the process that carried out the plan ended; what it had not begun stays",
}
"""Warnings that mean: it did not work (exit code 1)."""

NOTES: Final[Mapping[str, str]] = {
    "images_not_found": "the registry does not answer for some images of the ledger, which are"
    " counted among no newest: `registry-quota reconcile` finds out",
    "blobs_elsewhere": "the registry sends who reads a blob to object storage at a host that"
    " RQ_REGISTRY_REDIRECT_HOSTS does not name, so nothing goes: `registry-quota doctor` says which host",
    "image_unreadable": "it cannot be pulled, so it holds no place: pushing it again mends it",
    "doubted": "the registry gives no clear answer about it, so what depends on it stays:"
    " `registry-quota plan` says why",
}
"""Warnings that a person should read, and that stopped nothing."""

_REFUSED_PLAN: Final = (409, 410)
_LOOK_SECONDS: Final = 0.5
_BEGIN_SECONDS: Final = 120.0
"""After which a run that did not begin is not waited for: its plan is made and its images asked for by then."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan")(plan)
    app.command("cleanup")(cleanup)


def plan(
    workspace: WorkspaceName,
    incoming: Annotated[
        str | None,
        typer.Option(help="Make room for a build of this size, such as 250MB or plain bytes."),
    ] = None,
    build: Annotated[
        str | None,
        typer.Option(help="The build's id: what is reserved for it is not counted twice."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a cleanup would delete and keep, and why. Deletes nothing.

    Every manifest with keep or delete, the reason, and the bytes it frees. Exit code 3 when a breaker
    or a guard would refuse it.
    """
    body: Document = {} if incoming is None else {"incoming_bytes": parse_size(incoming)}
    if build is not None:
        body["build_id"] = build
    _show_and_exit(asyncio.run(_post_plan(workspace, body)), as_json=as_json)


def cleanup(
    workspace: WorkspaceName,
    plan_id: Annotated[
        UUID | None,
        typer.Option("--plan", help="Carry out this stored plan, exactly as it was shown."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, max=600, help="Seconds to wait; the rest goes on behind.")
    ] = 600,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is done, however long that takes.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask: carry out what was just shown.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what the policy allows until the target is reached.

    On a terminal it shows what would go, asks, and carries out exactly that. With --yes it does so
    without asking. Where nobody can be asked (a pipe, a schedule) it cleans towards the target.
    Exit code 0 done, 1 something failed or nobody agreed, 3 refused by a breaker or a guard.
    """
    if dry_run:
        _show_and_exit(asyncio.run(_plan(workspace, plan_id)), as_json=as_json)
    if plan_id is None and (yes or sys.stdin.isatty()):
        plan_id = _agreed(asyncio.run(_plan(workspace, None)), ask=not yes, as_json=as_json)
    outcome, obstacle = asyncio.run(_clean(workspace, plan_id, timeout, wait=wait))
    if as_json:
        emit_json(outcome)
    else:
        show_outcome(workspace, outcome, obstacle)
    raise typer.Exit(exit_code(outcome))


def _agreed(document: Document, *, ask: bool, as_json: bool) -> UUID:
    """The plan's id, when what it deletes was shown and agreed to. Raises typer.Exit otherwise."""
    going = going_of(document)
    if document["blocks"]:
        _show_and_exit(document, as_json=as_json)
    if going and not as_json:
        show_going(console, document, going)
    elif going and ask:
        show_going(errors, document, going)
    if going and ask and not typer.confirm(f"Delete {plural(len(going), 'image')}?", err=True):
        raise CommandError("nothing was deleted")
    return UUID(document["id"])


def _show_and_exit(document: Document, *, as_json: bool) -> NoReturn:
    show_plan(document, as_json=as_json)
    raise typer.Exit(3 if document["blocks"] else 0)


async def _plan(workspace: str, plan_id: UUID | None) -> Document:
    if plan_id is None:
        return await _post_plan(workspace, {})
    async with api_client() as api:
        path = workspace_path(workspace, "cleanup-plans", str(plan_id))
        document: Document = await api.call("GET", path)
        return document


async def _post_plan(workspace: str, body: Document) -> Document:
    async with api_client() as api:
        path = workspace_path(workspace, "cleanup-plans")
        document: Document = await api.call("POST", path, body=body)
        return document


async def _clean(
    workspace: str, plan_id: UUID | None, timeout_s: float, *, wait: bool
) -> tuple[Document, str | None]:
    """What was done, and why the target was not reached (None when it was)."""
    body: Document = {"timeout_s": timeout_s}
    if plan_id is not None:
        body["plan"] = str(plan_id)
    async with api_client() as api:
        before = await _newest_run(api, workspace) if wait else None
        running = asyncio.ensure_future(
            api.call("POST", workspace_path(workspace, "cleanups"), body=body)
        )
        with progress(f"cleaning {workspace}", unit="manifests") as work:

            async def look() -> None:
                work.at(*await _progress(api, workspace))

            try:
                outcome: Document = await watched(running, look)
            except ApiError as error:
                if plan_id is not None and error.status in _REFUSED_PLAN:
                    raise CommandError(str(error), exit_code=3) from error
                raise
            if wait and not outcome["done"]:
                run_id = outcome["run_id"] or await _begun(api, workspace, before)
                outcome = await _ended(api, workspace, run_id, work)
        if outcome["target_reached"] or not outcome["done"]:
            return outcome, None
    # The answer names what stopped it; a fresh plan has the sentence for it.
    now = await _post_plan(workspace, {})
    sentences = [block["why"] for block in now["blocks"]]
    return outcome, "; ".join(sentences) or now["why_not"]


async def _newest_run(api: ApiClient, workspace: str) -> str | None:
    runs = await api.call("GET", workspace_path(workspace, "cleanups"), query={"limit": 1})
    return runs["items"][0]["id"] if runs["items"] else None


async def _begun(api: ApiClient, workspace: str, before: str | None) -> str:
    """The id of the run that is newer than `before`: it is made when its plan is."""
    until = time.monotonic() + _BEGIN_SECONDS
    while time.monotonic() < until:
        if (found := await _newest_run(api, workspace)) not in (None, before):
            return str(found)
        await asyncio.sleep(_LOOK_SECONDS)
    raise CommandError(
        f"the cleanup of {workspace} has not begun within {_BEGIN_SECONDS:g} s; it goes on behind: see"
        f" `registry-quota plan {workspace}`, or call the command again"
    )


async def _ended(api: ApiClient, workspace: str, run_id: str, work: Work) -> Document:
    """The run's outcome, when it has ended: in the shape in which the API answers a cleanup."""
    path = workspace_path(workspace, "cleanups", run_id)
    while True:
        run: Document = await api.call("GET", path)
        work.at(*_dealt_with(run["items"]))
        if run["state"] != "running":
            return outcome_of(run)
        await asyncio.sleep(_LOOK_SECONDS)


def outcome_of(run: Document) -> Document:
    """A run on record, as the API answers the call that carried it out. PURE."""
    deleted = [item for item in run["items"] if item["state"] == "deleted"]
    failed = [item for item in run["items"] if item["state"] == "failed"]
    shown = ("repository", "app", "digest", "tags", "freed_bytes", "why")
    return {
        "performed": bool(deleted),
        "run_id": run["id"],
        "freed_bytes": run["freed_bytes"],
        "images": [
            {**{name: item[name] for name in shown}, "code": item.get("code", "")}
            for item in deleted
        ],
        "failed": [
            {
                "repository": item["repository"],
                "digest": item["digest"],
                "reason": item["failure"] or "",
            }
            for item in failed
        ],
        "target_reached": bool(run["target_reached"]),
        "done": True,
        "warnings": run["warnings"],
    }


async def _progress(api: ApiClient, workspace: str) -> tuple[int, int | None]:
    """(manifests dealt with, manifests) of the run that is under way."""
    try:
        runs = await api.call("GET", workspace_path(workspace, "cleanups"), query={"limit": 1})
        if not runs["items"] or runs["items"][0]["state"] != "running":
            return 0, None
        path = workspace_path(workspace, "cleanups", runs["items"][0]["id"])
        items = (await api.call("GET", path))["items"]
    except CommandError:
        return 0, None  # the cleanup itself says what is wrong
    return _dealt_with(items)


def _dealt_with(items: Sequence[Document]) -> tuple[int, int]:
    return sum(item["state"] not in ("planned", "deleting") for item in items), len(items)


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
        ["", "image", "kind", ">frees", "why"],
        [_planned(image) for image in images],
        names=["image"],
        usual={"kind": "image"},
    )
    going = sum(image["action"] == "delete" for image in images)
    console.print(
        f"{going} of {plural(len(images), 'manifest')} would go and free {format_bytes(document['freed_bytes'])}: "
        f"{format_bytes(document['usage_bytes'])} → {format_bytes(document['usage_after_bytes'])}"
        f"{_beside(document)}, target {format_bytes(document['target_bytes'])}",
        soft_wrap=True,
    )
    if going and not document["blocks"]:
        console.print(
            f"plan {plain(document['id'])}, to be carried out as it is until "
            f"{in_utc(document['expires_at'])} UTC: "
            f"registry-quota cleanup {plain(document['workspace'])} --plan {plain(document['id'])}",
            soft_wrap=True,
        )
    for block in document["blocks"]:
        console.print(f"[bold red]refused[/] {plain(block['code'])}: {plain(block['why'])}")
    for warning in document["warnings"]:
        console.print(
            f"[yellow]{plain(warning['code'])}[/]: {plain(warning['why'])}", soft_wrap=True
        )
    if document["why_not"]:
        console.print(f"target not reached: {plain(document['why_not'])}", soft_wrap=True)


def _beside(document: Document) -> str:
    """What counts beside what is stored."""
    told = [
        f" + {format_bytes(document[name])} {what}"
        for name, what in (("reserved_bytes", "reserved"), ("incoming_bytes", "incoming"))
        if document.get(name)
    ]
    return "".join(told)


def show_going(to: Console, document: Document, going: Sequence[Going]) -> None:
    """What a plan deletes, an image a row: bytes, age, last pull; and who says what is in use."""
    made_at = datetime.fromisoformat(document["made_at"])
    table(
        "",
        ["would go", ">frees", ">pushed", ">last pull"],
        [
            (
                image_name(item.repository, item.tags, item.digest),
                format_bytes(item.freed_bytes),
                ago(item.pushed_at, made_at) or "not known",
                ago(item.last_pulled_at, made_at) or "never seen",
            )
            for item in going
        ],
        to=to,
        names=["would go"],
    )
    sources = [lease["source"] for lease in document["lease_sources"]]
    to.print(
        f"None of them is in use by what {plain(', '.join(sources))} last reported."
        if sources
        else "What is in use is not known here: nobody reports it (registry-quota leases put).",
        soft_wrap=True,
    )
    for warning in document["warnings"]:
        to.print(f"[yellow]{plain(warning['code'])}[/]: {plain(warning['why'])}", soft_wrap=True)
    to.print(
        f"{plural(len(going), 'image')} would go and free {format_bytes(document['freed_bytes'])}: "
        f"{format_bytes(document['usage_bytes'])} → {format_bytes(document['usage_after_bytes'])}"
        f"{_beside(document)}, target {format_bytes(document['target_bytes'])}",
        soft_wrap=True,
    )


def show_outcome(workspace: str, outcome: Document, obstacle: str | None) -> None:
    """Print what a cleanup did, what it could not do, and why it stopped."""
    images: Sequence[Document] = outcome["images"]
    if images:
        table(
            "",
            ["", "image", ">freed", "why"],
            [_row("deleted", image) for image in images],
            names=["image"],
        )
    for item in outcome["failed"]:
        console.print(
            f"[bold red]failed[/] {plain(item['repository'])}@{plain(item['digest'])}: "
            f"{plain(item['reason'])}",
            soft_wrap=True,
        )
    for item in outcome.get("spared", ()):
        console.print(
            f"kept {plain(item['repository'])}@{plain(item['digest'][:19])}: {plain(item['reason'])}",
            soft_wrap=True,
        )
    for code in dict.fromkeys(outcome["warnings"]):
        kind = code.partition(":")[0]
        meaning = REFUSALS.get(kind) or FAULTS.get(kind) or NOTES.get(kind) or ""
        console.print(f"[yellow]{plain(code)}[/]{': ' if meaning else ''}{meaning}", soft_wrap=True)
    console.print(f"{plain(workspace)}: {_summary(outcome)}", soft_wrap=True)
    if obstacle:
        console.print(f"target not reached: {plain(obstacle)}", soft_wrap=True)


def _summary(outcome: Document) -> str:
    run = f" (run {plain(outcome['run_id'])})" if outcome["run_id"] else ""
    freed = f"freed {format_bytes(outcome['freed_bytes'])}"
    if not outcome["done"]:
        return f"{freed} so far; the cleanup goes on{run}"
    if not outcome["images"] and outcome["target_reached"]:
        return "nothing to do, the target is reached already"
    reached = "target reached" if outcome["target_reached"] else "target not reached"
    return f"{freed}, {reached}{run}"


def _planned(image: Document) -> tuple[str, ...]:
    action, name, *rest = _row(image["action"], image)
    return (action, name, image.get("kind") or "not known", *rest)


def _row(action: str, image: Document) -> tuple[str, ...]:
    # The action stands in the column before it.
    why = image["why"].removeprefix("kept: ").removeprefix("deleted: ")
    return (
        action,
        image_name(image["repository"], image["tags"], image["digest"]),
        "" if action == "keep" else format_bytes(image["freed_bytes"]),
        why,
    )
