"""`registry-quota alerts forward`: quota events to a webhook, Slack or Alertmanager."""

import asyncio
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from cli.client import settings_here, warn_of_unknown
from cli.console import CommandError
from cli.options import workspace_names

if TYPE_CHECKING:
    from alerts import render

commands = typer.Typer(help="Quota events for people's tools.", no_args_is_help=True)


class Target(StrEnum):
    """What is at the other end."""

    webhook = "webhook"
    slack = "slack"
    alertmanager = "alertmanager"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="alerts")


@commands.callback()
def group_of_commands() -> None:
    """Quota events, handed on."""


@commands.command()
def forward(
    to: Annotated[Target, typer.Option(help="webhook (signed), slack or alertmanager.")],
    url: Annotated[
        str | None, typer.Option(help="Where to; better in RQ_ALERTS_URL, for it may be a secret.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Types such as usage.level_changed; several times for several."),
    ] = None,
    workspace: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these workspaces; several times for several.",
            autocompletion=workspace_names,
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="The consumer group; one for each destination.")
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, max=1000, help="Tries for one event.")] = 12,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="A new group begins at the topic's start.")
    ] = False,
    repeat_every: Annotated[
        float,
        typer.Option(
            min=1, max=43_200, help="Seconds after which Alertmanager is told again what stands."
        ),
    ] = 3600,
) -> None:
    """Forward until Ctrl-C: each event once, in order per workspace, dead-lettered when it must be."""
    import uvloop

    from alerts import wiring
    from alerts.forward import Policy
    from alerts.render import QUIET, Event
    from quota.events import KINDS
    from quota.near import did_you_mean
    from runtime.logs import configure_logs

    settings = settings_here()
    address = url or (settings.alerts_url.get_secret_value() if settings.alerts_url else "")
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CommandError("set RQ_ALERTS_URL (or --url) to an http or https address", exit_code=2)
    if to is Target.alertmanager and not parts.path.strip("/"):
        address = address.rstrip("/") + "/api/v2/alerts"
    secret = settings.alerts_secret.get_secret_value() if settings.alerts_secret else ""
    kinds, workspaces = frozenset(only or ()), frozenset(workspace or ())
    if unknown := sorted(kinds - KINDS):
        meant = did_you_mean(unknown[0], KINDS)
        raise CommandError(
            f"--only {unknown[0]}: there is no such type of event{meant}"
            f" ({', '.join(sorted(KINDS))})",
            exit_code=2,
        )
    base = settings.api_url.rstrip("/") if settings.api_url else None
    quiet = frozenset() if to is Target.webhook else QUIET

    def wanted(event: Event) -> bool:
        if workspaces and event.subject not in workspaces:
            return False
        return event.kind in kinds if kinds else event.kind not in quiet

    asyncio.run(warn_of_unknown(workspaces))
    configure_logs(settings, process="alerts")
    code = uvloop.run(
        wiring.run(
            settings,
            url=address,
            group=group or f"{settings.kafka_group}-alerts-{to.value}",
            render=_render(to, secret, base),
            policy=Policy(
                wanted=wanted,
                attempts=attempts,
                from_start=from_start,
                repeat_every=repeat_every,
                base=base,
            ),
            repeats=to is Target.alertmanager,
        )
    )
    raise typer.Exit(code)


def _render(to: Target, secret: str, base: str | None) -> "render.Render":
    from alerts import render

    if to is Target.webhook:
        try:
            return render.webhook(secret)
        except render.BadSecretError as error:
            raise CommandError(f"RQ_ALERTS_SECRET: {error}", exit_code=2) from error
    return partial(render.slack if to is Target.slack else render.alertmanager, base=base)
