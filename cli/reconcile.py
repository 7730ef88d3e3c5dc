"""`registry-quota reconcile`: the ledger against what the registry really has."""

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cli.client import settings_here
from cli.console import CommandError, console, emit_json, plain, size, table

if TYPE_CHECKING:
    from quota.reconcile import Progress, Reconciler, Report
    from runtime.settings import Settings

_PLAIN_LINE_SECONDS = 5.0
_MOST_PROBLEMS_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "reconcile", help="Compare the ledger with the registry and mend what differs. Resumable."
    )(reconcile)


def reconcile(
    workspace: Annotated[
        str | None, typer.Option("--workspace", help="Only this workspace's repositories.")
    ] = None,
    confirm_now: Annotated[
        bool,
        typer.Option(
            "--confirm-now",
            help="Forget at once what the registry answers 404 to, without a second pass.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Exit code 0 done, 1 the registry was away or something could not be read."""
    from runtime.logs import configure_logs

    settings = settings_here()
    configure_logs(settings, process="reconcile")
    report, seconds = asyncio.run(
        _reconcile(settings, workspace, confirm_now=confirm_now, quiet=as_json)
    )
    if as_json:
        emit_json({**msgspec.to_builtins(report), "seconds": round(seconds, 3)})
    else:
        show(report, seconds)
    raise typer.Exit(1 if report.problems else 0)


async def _reconcile(
    settings: "Settings", workspace: str | None, *, confirm_now: bool, quiet: bool
) -> tuple["Report", float]:
    import asyncpg

    from quota.reconcile import AlreadyReconcilingError
    from registry.errors import RegistryError
    from runtime.postgres import UNAVAILABLE

    started = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            reconciler = await _open(stack, settings)
            running = asyncio.create_task(
                reconciler.run(workspace=workspace, confirm_now=confirm_now)
            )
            if not quiet:
                await _show_progress(reconciler, running)
            report = await running
            if report is None:  # pragma: no cover - only for passes that may be spared
                raise CommandError("nothing was reconciled")
            return report, time.monotonic() - started
    except AlreadyReconcilingError as error:
        raise CommandError(str(error)) from error
    except RegistryError as error:
        raise CommandError(
            f"the registry at {settings.required_registry_url()} stopped the pass: {error}. "
            "Run the command again: it goes on where it stopped"
        ) from error
    except UNAVAILABLE as error:
        raise CommandError(
            f"the database does not answer ({error}); run the command again: it goes on where it stopped"
        ) from error
    except asyncpg.UndefinedTableError as error:
        raise CommandError(
            "the database's schema is too old: run `registry-quota migrate`"
        ) from error


async def _open(stack: AsyncExitStack, settings: "Settings") -> "Reconciler":
    from quota.wiring import open_reconciler
    from runtime.postgres import open_pool

    pool = await open_pool(
        settings.required_database_url(),
        size=settings.database_pool_size,
        name="registry-quota reconcile",
    )
    stack.push_async_callback(pool.close)
    return await open_reconciler(stack, settings, pool)


async def _show_progress(reconciler: "Reconciler", running: "asyncio.Task[Report | None]") -> None:
    if not sys.stdout.isatty():
        await _show_lines(reconciler, running)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} repositories, {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        started = time.monotonic()
        task = bar.add_task("reconciling", total=None, rate="")
        while not running.done():
            progress = reconciler.progress
            bar.update(
                task,
                total=max(progress.total, 1),
                completed=progress.done,
                rate=_rate(progress, time.monotonic() - started),
            )
            await asyncio.wait([running], timeout=0.1)


async def _show_lines(reconciler: "Reconciler", running: "asyncio.Task[Report | None]") -> None:
    started = time.monotonic()
    while not running.done():
        await asyncio.wait([running], timeout=_PLAIN_LINE_SECONDS)
        progress = reconciler.progress
        if not running.done() and progress.total:
            seconds = time.monotonic() - started
            left = (
                seconds / progress.done * (progress.total - progress.done)
                if progress.done
                else None
            )
            remaining = "" if left is None else f", about {left:.0f} s left"
            console.print(
                f"{progress.done}/{progress.total} repositories, {_rate(progress, seconds)}{remaining}",
                soft_wrap=True,
            )


def _rate(progress: "Progress", seconds: float) -> str:
    per_second = progress.manifests / seconds if seconds > 0 else 0.0
    return f"{progress.manifests} manifests ({per_second:.0f}/s), {progress.found} found"


def show(report: "Report", seconds: float) -> None:
    """Print what a pass came to."""
    if report.drift:
        table(
            "",
            ["workspace", ">found", ">corrected", ">forgotten", ">bytes", ">usage now"],
            [
                (
                    item.workspace,
                    item.found,
                    item.corrected,
                    item.forgotten,
                    size(item.drift_bytes),
                    size(item.usage_after),
                )
                for item in report.drift
            ],
        )
    for problem in report.problems[:_MOST_PROBLEMS_SHOWN]:
        console.print(f"[bold red]not read[/] {plain(problem)}", soft_wrap=True)
    if (more := len(report.problems) - _MOST_PROBLEMS_SHOWN) > 0:
        console.print(f"[bold red]not read[/] and {more} more")
    for note in report.notes:
        console.print(plain(note), soft_wrap=True)
    console.print(_summary(report, seconds), soft_wrap=True)


def _summary(report: "Report", seconds: float) -> str:
    rate = report.manifests / seconds if seconds > 0 else 0.0
    text = (
        f"{report.repositories} repositories, {report.manifests} manifests in {seconds:.1f} s "
        f"({rate:.0f}/s)"
    )
    if report.resumed:
        text += ", resumed"
    text += ": the ledger equals the registry" if not report.drift else ": mended"
    if report.suspected:
        text += f"; {report.suspected} were not there: a pass an hour later (or --confirm-now) forgets them"
    return text
