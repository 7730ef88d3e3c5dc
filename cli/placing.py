"""`registry-quota workspaces place`: what another `RQ_WORKSPACE_PATTERN` would put elsewhere, moved."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.client import settings_here
from cli.console import CommandError, console, emit_json, table
from cli.options import AsJson
from cli.progress import progress
from quota.words import plural
from runtime.errors import text_of

if TYPE_CHECKING:
    from ledger.placing import Elsewhere
    from runtime.settings import Settings

_SHOWN = 50


def place(
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask: move what was just shown.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move repositories to where RQ_WORKSPACE_PATTERN puts them now, with what they store.

    A repository is placed when it is first heard of, and stays there under another pattern. Those mapped
    by hand stay in any case. On a terminal it shows what would move, and asks; where nobody can be asked
    it moves nothing without --yes.
    Exit code 0 all of it is where the pattern puts it, 1 something could not be moved or nobody agreed.
    """
    from runtime.postgres import UNAVAILABLE

    settings = settings_here()
    try:
        moved, left = asyncio.run(_place(settings, ask=not yes, as_json=as_json))
    except UNAVAILABLE as error:
        raise CommandError(f"the database does not answer ({text_of(error)})") from error
    if as_json:
        emit_json(
            {
                "moved": [_document(item) for item in moved],
                "left": [{**_document(item), "reason": reason} for item, reason in left],
            }
        )
    else:
        for item, reason in left[:_SHOWN]:
            console.print(f"{item.repository} stays: {reason}", markup=False, soft_wrap=True)
        if len(left) > _SHOWN:
            console.print(f"and {len(left) - _SHOWN} more stay (--json)")
        console.print(
            f"{plural(len(moved), 'repository')} moved"
            + (f", {len(left)} not; run the command again" if left else "")
        )
    raise typer.Exit(1 if left else 0)


def _document(item: "Elsewhere") -> dict[str, Any]:
    return {
        "registry": item.registry,
        "repository": item.repository,
        "previous_workspace": item.now.workspace,
        "previous_app": item.now.app,
        "workspace": item.by_pattern.workspace,
        "app": item.by_pattern.app,
    }


async def _place(
    settings: "Settings", *, ask: bool, as_json: bool
) -> tuple[list["Elsewhere"], list[tuple["Elsewhere", str]]]:
    from ledger.mapping import CleanupRunningError, Mapper, MovedMeanwhileError
    from ledger.placing import placing
    from quota.levels import level
    from registry.workspaces import WorkspaceRule
    from runtime.postgres import close_pool, open_pool

    moved: list[Elsewhere] = []
    left: list[tuple[Elsewhere, str]] = []
    rule = WorkspaceRule(settings.workspace_pattern)
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            settings.required_database_url(), size=2, name="registry-quota workspaces place"
        )
        stack.push_async_callback(close_pool, pool)
        async with pool.acquire() as connection:
            elsewhere = (await placing(connection, rule)).elsewhere
        if elsewhere and ask:
            _agreed(elsewhere, as_json=as_json)
        mapper = Mapper(
            pool,
            rule=rule,
            default_quota_bytes=settings.default_quota_bytes,
            level_of=level,
        )
        with progress("moving", len(elsewhere), unit="repositories") as work:
            for number, item in enumerate(elsewhere, start=1):
                try:
                    await mapper.map(
                        item.registry,
                        item.repository,
                        item.by_pattern,
                        only_from=item.now.workspace,
                        now=datetime.now(UTC),
                    )
                    moved.append(item)
                except (CleanupRunningError, MovedMeanwhileError) as error:
                    left.append((item, str(error)))
                work.at(number, len(elsewhere), "")
    return moved, left


def _agreed(elsewhere: Sequence["Elsewhere"], *, as_json: bool) -> None:
    """Show what would move and ask. Raises CommandError when nobody agrees."""
    if not as_json:
        table(
            "",
            ["repository", "counts for", "app", "by the pattern", "app there"],
            [(item.repository, *item.now, *item.by_pattern) for item in elsewhere[:_SHOWN]],
            names=["repository"],
        )
        if len(elsewhere) > _SHOWN:
            console.print(f"and {len(elsewhere) - _SHOWN} more")
    if not sys.stdin.isatty():
        raise CommandError(
            f"{plural(len(elsewhere), 'repository')} would move; say --yes where nobody can be asked"
        )
    if not typer.confirm(f"Move {plural(len(elsewhere), 'repository')}?", err=True):
        raise CommandError("nothing was moved")
