"""`registry-quota verify`: count again from the manifests alone; 0, or what differs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import typer

from cli.client import near_names, settings_here
from cli.console import CommandError, console, emit_json, errors, plain, table
from cli.options import AsJson, OnlyWorkspace
from cli.progress import progress
from quota.words import plural
from runtime.errors import text_of

if TYPE_CHECKING:
    from ledger.verify import Verified

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(workspace: OnlyWorkspace = None, as_json: AsJson = False) -> None:
    """Recount from the manifests alone and say 0 or what differs.

    Ask the database (RQ_DATABASE_URL), not the counters. Exit 1 when something differs.
    """
    outcomes = asyncio.run(_verify(workspace))
    if workspace is not None and not outcomes:
        advice = near_names(workspace, asyncio.run(workspace_names()))
        raise CommandError(f"there is no workspace {workspace!r}{advice}")
    if as_json:
        emit_json([_document(item) for item in outcomes])
    else:
        _print(outcomes)
    if not all(item.exact for item in outcomes):
        raise typer.Exit(1)


@asynccontextmanager
async def database() -> AsyncIterator[Any]:
    """One connection to RQ_DATABASE_URL; a failure to connect is one sentence."""
    import asyncpg

    from runtime.postgres import CONNECT_TIMEOUT, UNAVAILABLE
    from runtime.tls import advice

    url = settings_here().required_database_url()
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT)
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        raise CommandError(
            f"the database does not answer ({text_of(error)}); "
            + (advice(error) or "check RQ_DATABASE_URL and that it runs")
        ) from error
    try:
        yield connection
    finally:
        await connection.close()


async def _verify(workspace: str | None) -> "list[Verified]":
    import asyncpg

    from ledger.verify import count, keep
    from ledger.verify import verify as recount

    async with database() as connection:
        total = 1 if workspace is not None else await count(connection)
        outcomes = []
        with progress("recounting", total, unit="workspaces") as work:
            async for item in recount(connection, workspace):
                outcomes.append(item)
                work.advance(1)
        try:
            async with connection.transaction():
                await keep(connection, outcomes, now=datetime.now(UTC), new_id=uuid4)
        except asyncpg.PostgresError as error:
            errors.print(f"the outcome is not kept for metric and status: {plain(str(error))}")
    return outcomes


async def workspace_names() -> list[str]:
    """Every workspace of the ledger, from the database. Raises CommandError."""
    from ledger.verify import names

    async with database() as connection:
        return await names(connection)


def _print(outcomes: "list[Verified]") -> None:
    from registry.names import format_digest

    wrong = [item for item in outcomes if not item.exact]
    digests = sum(item.digests for item in outcomes)
    console.print(
        f"drift {sum(abs(item.drift_bytes) for item in outcomes)} bytes: "
        f"{plural(len(outcomes), 'workspace')} with {plural(digests, 'digest')} recounted, {len(wrong)} differ"
    )
    if pending := sum(item.pending for item in outcomes):
        console.print(
            f"[yellow]not counted yet:[/] the layers of {plural(pending, 'manifest')}, which the consumer has "
            "still to read; `registry-quota status` (Sizes) says what it waits for",
            soft_wrap=True,
        )
    if doubted := {digest for item in outcomes for digest in item.doubted}:
        console.print(
            f"[yellow]asked again:[/] {plural(len(doubted), 'size')} that an event told of storage and manifests "
            "contradict; the consumer asks the registry, whose word counts then",
            soft_wrap=True,
        )
        for digest in sorted(doubted)[:_SHOWN]:
            console.print(f"  {format_digest(digest)}")
    if not wrong:
        return
    table(
        "",
        ["workspace", ">counter", ">recount", ">drift", ">digests that differ"],
        [
            (
                item.workspace,
                item.usage_bytes,
                item.recounted_bytes,
                item.drift_bytes,
                len(item.wrong),
            )
            for item in wrong
        ],
        names=["workspace"],
    )
    for item in wrong:
        for drift in item.wrong[:_SHOWN]:
            console.print(
                f"{plain(item.workspace)} {format_digest(drift.digest)}: "
                f"{drift.refs} references of {_size(drift.size)}, "
                f"should be {drift.expected_refs} of {_size(drift.expected_size)}"
            )
        if len(item.wrong) > _SHOWN:
            console.print(f"{plain(item.workspace)}: and {len(item.wrong) - _SHOWN} more (--json)")


def _size(count: int | None) -> str:
    return "nothing" if count is None else f"{count} bytes"


def _document(item: "Verified") -> dict[str, Any]:
    from registry.names import format_digest

    return {
        "workspace": item.workspace,
        "usage_bytes": item.usage_bytes,
        "recounted_bytes": item.recounted_bytes,
        "drift_bytes": item.drift_bytes,
        "digests": item.digests,
        "pending": item.pending,
        "doubted": [format_digest(digest) for digest in item.doubted],
        "wrong": [
            {
                "digest": format_digest(drift.digest),
                "refs": drift.refs,
                "expected_refs": drift.expected_refs,
                "size": drift.size,
                "expected_size": drift.expected_size,
            }
            for drift in item.wrong
        ],
    }
