"""`registry-quota serve receiver|consumer|api|all|temporal-worker`."""

import asyncio
from collections.abc import Callable, Coroutine
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer

from cli.console import CommandError
from registry.errors import BadRegistryUrl
from runtime.settings import Settings


class Role(StrEnum):
    """What a process does."""

    receiver = "receiver"
    consumer = "consumer"
    api = "api"
    all = "all"
    temporal_worker = "temporal-worker"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    role: Annotated[
        Role, typer.Argument(help="receiver, consumer, api, all of these, or temporal-worker")
    ],
) -> None:
    """Run one role (or all of them in one process) until Ctrl-C."""
    import uvloop

    from runtime.logs import configure_logs

    settings = Settings.load()
    configure_logs(settings, process=role.value)
    run = _all if role is Role.all else _runner(role)
    try:
        code = uvloop.run(run(settings))
    except (OSError, BadRegistryUrl) as error:
        # A taken port, an address that is none: a sentence, not a traceback.
        raise CommandError(f"{role.value} cannot start: {error}") from error
    raise typer.Exit(code)


def _runner(role: Role) -> Callable[[Settings], Coroutine[Any, Any, int]]:
    """The role's composition root; only its own rooms are imported."""
    room = {
        Role.receiver: "webhook_receiver",
        Role.consumer: "consumer",
        Role.api: "quota",
        Role.temporal_worker: "temporal_worker",
    }[role]
    try:
        run: Callable[[Settings], Coroutine[Any, Any, int]] = import_module(f"{room}.wiring").run
    except ModuleNotFoundError as error:
        if error.name != "temporalio":
            raise
        raise CommandError(
            "this needs the extra: pip install 'registry-quota[temporal]'"
        ) from error
    return run


async def _all(settings: Settings) -> int:
    """The three roles in one process: a signal ends all; one that fails ends the others."""
    roles = [
        asyncio.ensure_future(_runner(role)(settings))
        for role in (Role.receiver, Role.consumer, Role.api)
    ]
    done, pending = await asyncio.wait(roles, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()  # once: each has its parts to end
    await asyncio.gather(*pending, return_exceptions=True)
    return max(task.result() for task in done)
