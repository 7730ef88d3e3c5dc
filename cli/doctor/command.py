"""The command: asks everything, prints it, and says by its exit code whether all is fine."""

import asyncio
import dataclasses
import logging
import os
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

import typer

from cli.client import settings_here
from cli.console import console, emit_json, plain
from cli.doctor.connect import CONFIGURATION_FILES, TOKEN_PLACEHOLDER, notification_block
from cli.doctor.findings import Finding, State, all_fine, failed, skipped
from cli.options import AsJson
from runtime.settings import Settings, SettingsError

_MARKS: Final[dict[State, str]] = {
    "ok": "[green]ok[/]     ",
    "warning": "[yellow]warning[/]",
    "failed": "[bold red]failed[/] ",
    "skipped": "[dim]skipped[/]",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    webhook_url: Annotated[
        str | None,
        typer.Option(help="The receiver's endpoint as the registry reaches it."),
    ] = None,
    show_token: Annotated[
        bool, typer.Option("--show-token", help="Put the real token into the block to paste.")
    ] = False,
    settings_too: Annotated[
        bool,
        typer.Option("--settings", help="Also every setting that is in force, secrets masked."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every setting and connection, and say what mends what is wrong.

    Exit code 0 when nothing failed, else 1. No account changes by it.

    Whether deletes are enabled is found by deleting a manifest that cannot exist, and whether
    notifications arrive by asking for one that does: a pull of ours, which counts for nothing.
    """
    # What a client logs while something is away, the findings say better.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings, findings = _settings_and_findings()
    report = _report(settings, findings, webhook_url, show_token=show_token)
    if as_json:
        emit_json(report)
    else:
        _print(report, findings, settings_too=settings_too)
    raise typer.Exit(0 if all_fine(findings) else 1)


def _settings_and_findings() -> tuple[Settings | None, list[Finding]]:
    try:
        settings = settings_here()
    except SettingsError as error:
        mend = "correct this variable; nothing else was checked"
        return None, [failed("settings", line, mend) for line in str(error).split("; ")]
    return settings, asyncio.run(_examine(settings))


async def _examine(settings: Settings) -> list[Finding]:
    """All checks; those that do not need each other at the same time."""
    from yarl import URL

    from cli.doctor import doors, kafka, notifications, postgres, registry, tls
    from cli.doctor import settings as own

    files = tls.check(settings)
    if not all_fine(files):
        return [*own.check(settings, os.environ, library=_sends_traces()), *files]
    receiver = own.webhook_url(settings, os.environ)
    api = URL(settings.api_address())
    (
        database,
        (topics, log),
        registry_findings,
        receiver_findings,
        (api_findings, status),
        (platform, grpc),
    ) = await asyncio.gather(
        postgres.check(settings),
        kafka.check(settings),
        registry.check(settings),
        doors.check_receiver(settings, receiver, os.environ),
        doors.check_api(settings, api),
        asyncio.gather(doors.check_platform(settings, api), doors.check_grpc(settings)),
    )
    delivery = (
        skipped("delivery", "Kafka does not tell what arrives")
        if log is None
        else skipped("delivery", "a pull of ours would make a cache download what is pulled")
        if any(finding.check == "cache" for finding in registry_findings)
        else await notifications.probe(settings, log.ends.keys(), ever=bool(log.events))
    )
    return [
        *own.check(settings, os.environ, library=_sends_traces()),
        *files,
        *database,
        *topics,
        *registry_findings,
        *receiver_findings,
        *api_findings,
        *platform,
        grpc,
        delivery,
        *(
            kafka.arriving(
                log,
                (status or {}).get("dead_letters"),
                registries=own.registries(settings),
            )
            if log is not None
            else ()
        ),
        *doors.judge_status(status),
    ]


def _report(
    settings: Settings | None,
    findings: Sequence[Finding],
    webhook_url: str | None,
    *,
    show_token: bool,
) -> dict[str, Any]:
    """The document of `--json`."""
    report: dict[str, Any] = {
        "ok": all_fine(findings),
        "settings": [],
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "registry_configuration": {},
    }
    if settings is None:
        return report
    from cli.doctor import settings as own

    report["settings"] = [dataclasses.asdict(row) for row in own.shown(settings)]
    address = webhook_url or str(own.webhook_url(settings, os.environ))
    token = own.webhook_token(settings, os.environ) if show_token else TOKEN_PLACEHOLDER
    block = notification_block(address, token)
    report["registry_configuration"] = {
        version: {"file": file, "yaml": block} for version, file in CONFIGURATION_FILES.items()
    }
    return report


def _print(report: dict[str, Any], findings: Sequence[Finding], *, settings_too: bool) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        console.print(
            f"{_MARKS[finding.state]}  {finding.check:<{width}}  {plain(finding.found)}",
            soft_wrap=True,
        )
        if finding.mend:
            console.print(f"{'':<{11 + width}}[bold]→[/] {plain(finding.mend)}", soft_wrap=True)
    configuration = report["registry_configuration"]
    if configuration:
        places = " and ".join(
            f"{place['file']} ({version})" for version, place in configuration.items()
        )
        console.print(f"\nFor the registry's configuration, {places}:\n", soft_wrap=True)
        # As it is: no markup, no wrapping.
        print(textwrap.indent(configuration["v2"]["yaml"], "  "))
        console.print(
            "If the registry reaches the receiver by another address, say --webhook-url.\n",
            style="dim",
        )
    if settings_too:
        for row in report["settings"]:
            line = f"{row['variable']:<28} {plain(row['value']) or '-'}"
            console.print(line if row["given"] else f"[dim]{line}  (default)[/]", soft_wrap=True)
        console.print()
    bad = sum(finding.state == "failed" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    unasked = sum(finding.state == "skipped" for finding in findings)
    verdict = f"{bad} failed" if bad else "nothing failed" if unasked else "all fine"
    console.print(
        f"[bold]{verdict}[/]"
        + (f", {warnings} to look at" if warnings else "")
        + (f", {unasked} not checked, as said above" if unasked else "")
    )


def _sends_traces() -> bool:
    try:
        return bool(version("opentelemetry-exporter-otlp-proto-http"))
    except PackageNotFoundError:
        return False
