"""`registry-quota reconcile`: the ledger against what the registry really has."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cli.client import near_names, settings_here
from cli.console import CommandError, console, emit_json, plain, table
from cli.options import AsJson, OnlyWorkspace
from cli.progress import progress, watched
from cli.verify import workspace_names
from quota.words import format_bytes, plural
from runtime.errors import text_of

if TYPE_CHECKING:
    from quota.reconcile import Reconciler, Report
    from runtime.settings import Settings

_MOST_PROBLEMS_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reconcile")(reconcile)


def reconcile(
    workspace: OnlyWorkspace = None,
    confirm_now: Annotated[
        bool,
        typer.Option(
            "--confirm-now",
            help="Forget at once what the registry answers 404 to, without a second pass.",
        ),
    ] = False,
    forgetting: Annotated[
        int,
        typer.Option(
            "--forgetting",
            min=0,
            help="With --confirm-now: forget so many, by the number that was shown, although it is a large"
            " share of all.",
        ),
    ] = 0,
    confirm_restored: Annotated[
        bool,
        typer.Option(
            "--confirm-restored",
            help="After an older backup of the database was put back: its leases, rules, mappings and tokens"
            " are right again, and cleanups may delete.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the ledger with the registry and mend what differs. Resumable.

    Exit code 0 done, 1 the registry was away or something could not be read, 3 a pull-through cache, so
    much is not there that a person is asked, or an older database that is not confirmed yet.
    """
    import uvloop

    from runtime.logs import configure_logs

    if forgetting and not confirm_now:
        raise CommandError("--forgetting goes with --confirm-now", exit_code=2)
    if confirm_restored and workspace is not None:
        raise CommandError("--confirm-restored is about all workspaces", exit_code=2)
    settings = settings_here()
    configure_logs(settings, process="reconcile")
    report, seconds, refused = uvloop.run(
        _reconcile(
            settings,
            workspace,
            confirm_now=confirm_now,
            forgetting=forgetting,
            confirm_restored=confirm_restored,
        )
    )
    if workspace is not None and not report.repositories and not report.problems:
        _known(workspace)
    if as_json:
        emit_json(
            {**msgspec.to_builtins(report), "equal": report.equal, "seconds": round(seconds, 3)}
        )
    else:
        show(report, seconds)
    if refused is not None:
        raise CommandError(refused, exit_code=3)
    if report.asks is not None:
        raise typer.Exit(3)
    raise typer.Exit(1 if report.problems else 0)


def _known(workspace: str) -> None:
    """Raises CommandError for a workspace that neither the registry nor the ledger knows."""
    names = asyncio.run(workspace_names())
    if workspace not in names:
        raise CommandError(
            f"{workspace} is unknown here: the registry holds no repository of it"
            f"{near_names(workspace, names)}"
        )


async def _reconcile(
    settings: "Settings",
    workspace: str | None,
    *,
    confirm_now: bool,
    forgetting: int,
    confirm_restored: bool,
) -> tuple["Report", float, str | None]:
    """The report, how long it took in seconds, and why an older database is not confirmed."""
    from quota.reconcile import AlreadyReconcilingError
    from registry.errors import PullThroughCache, RegistryDenied, RegistryError, WrongRealm
    from runtime.postgres import UNAVAILABLE

    started = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            reconciler = await _open(stack, settings)
            running = asyncio.ensure_future(
                reconciler.run(workspace=workspace, confirm_now=confirm_now, forgetting=forgetting)
            )
            with progress("reconciling", unit="repositories") as work:

                async def look() -> None:
                    now = reconciler.progress
                    note = f"{plural(now.manifests, 'manifest')}, {now.found} found"
                    work.at(now.done, now.total or None, note)

                report = await watched(running, look)
            if report is None:  # pragma: no cover - only for passes that may be spared
                raise CommandError("nothing was reconciled")
            refused = await _confirm_restored(reconciler, report) if confirm_restored else None
            return report, time.monotonic() - started, refused
    except AlreadyReconcilingError as error:
        raise CommandError(str(error)) from error
    except PullThroughCache as error:
        raise CommandError(str(error), exit_code=3) from error
    except WrongRealm as error:
        raise CommandError(
            f"the registry at {settings.required_registry_url()} refuses us: {error}"
        ) from error
    except RegistryDenied as error:
        raise CommandError(
            f"the registry at {settings.required_registry_url()} refuses us: {error}. Correct "
            "RQ_REGISTRY_USERNAME and RQ_REGISTRY_PASSWORD before you run it again"
        ) from error
    except RegistryError as error:
        raise CommandError(
            f"the registry at {settings.required_registry_url()} stopped the pass: {error}. "
            "See that RQ_REGISTRY_URL is its address and that it runs, then run the command again: it goes "
            "on where it stopped"
        ) from error
    except UNAVAILABLE as error:
        raise CommandError(
            f"the database does not answer ({text_of(error)}); run the command again: it goes on where it stopped"
        ) from error


async def _confirm_restored(reconciler: "Reconciler", report: "Report") -> str | None:
    """Why cleanups may not delete yet; None: they may."""
    if report.problems:
        return "not confirmed: the registry could not be compared as a whole, as named above"
    if left := await reconciler.confirm_restored(report):
        return f"not confirmed: {plural(left, 'event')} since the backup are not recorded yet; try again soon"
    if await reconciler.restored():
        return "not confirmed: the pass had begun before the backup was noticed; run it once more"
    return None


async def _open(stack: AsyncExitStack, settings: "Settings") -> "Reconciler":
    from quota.reconcile_wiring import open_reconciler
    from runtime.postgres import close_pool, open_pool

    pool = await open_pool(
        settings.required_database_url(),
        size=settings.database_pool_size,
        name="registry-quota reconcile",
    )
    stack.push_async_callback(close_pool, pool)
    return await open_reconciler(stack, settings, pool, clock=lambda: datetime.now(UTC))


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
                    format_bytes(item.drift_bytes),
                    format_bytes(item.usage_after),
                )
                for item in report.drift
            ],
            names=["workspace"],
        )
    _named("[bold red]not read[/]", report.problems)
    _named("[yellow]doubted[/]", report.doubted)
    for note in report.notes:
        console.print(plain(note), soft_wrap=True)
    console.print(_summary(report, seconds), soft_wrap=True)


def _named(mark: str, items: Sequence[str]) -> None:
    for item in items[:_MOST_PROBLEMS_SHOWN]:
        console.print(f"{mark} {plain(item)}", soft_wrap=True)
    if (more := len(items) - _MOST_PROBLEMS_SHOWN) > 0:
        console.print(f"{mark} and {more} more (--json)")


def _summary(report: "Report", seconds: float) -> str:
    rate = report.manifests / seconds if seconds > 0 else 0.0
    text = (
        f"{plural(report.repositories, 'repository')}, {plural(report.manifests, 'manifest')} in {seconds:.1f} s "
        f"({rate:.0f}/s): "
    )
    if report.equal:
        return text + "the ledger equals the registry"
    text += "mended" if report.drift else "no difference in what was read"
    if report.resumed:
        text += "; an earlier run had read what is before the place where it stopped"
    if report.problems:
        text += f"; {len(report.problems)} could not be read or were refused, as named above"
    if report.doubted:
        text += f"; {len(report.doubted)} are in doubt, as named above"
    return text
