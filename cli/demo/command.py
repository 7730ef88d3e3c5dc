"""The command: on the stack that runs in this folder, else on one that it starts and stops."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer

from cli.client import api_client, settings_here
from cli.console import CommandError
from quota.words import plural

_WORKSPACE: Final = "demo"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    connected: Annotated[
        bool,
        typer.Option(
            "--connected",
            help="On the system that the settings reach, in a new workspace of its own.",
        ),
    ] = False,
) -> None:
    """Show the main job on real parts, and verify it: push, account, announce, clean up.

    Beside a running `dev up` (`make run`) of the same folder it uses that stack, else it starts and
    stops its own. Its workspace is `demo`, emptied first, and stays. Exits 0 only if all of it held.
    """
    try:
        from devstack.errors import StackError
    except ImportError as error:
        raise _not_installed(error) from error
    from registry.errors import RegistryError

    try:
        held = asyncio.run(_until_signal(_demo(connected=connected)))
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    except ImportError as error:
        raise _not_installed(error) from error
    except (StackError, RegistryError) as error:
        raise CommandError(str(error)) from error
    if not held:
        raise typer.Exit(1)


def _not_installed(error: ImportError) -> CommandError:
    return CommandError(
        f"the embedded stack is not installed ({error.name}); install it with "
        "`pip install 'registry-quota[devstack]'`, use `make demo` in a checkout, or give --connected "
        "for the system that the settings reach"
    )


async def _until_signal(work: Coroutine[Any, Any, bool]) -> bool:
    """Do the work; the first signal ends it in order. Raises CancelledError then."""
    from cli.demo import show

    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop() -> None:
        for number in numbers:  # an impatient second one must not leave parts of the stack behind
            loop.add_signal_handler(number, lambda: None)
        show.aside("stopping")
        task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    return await task


async def _demo(*, connected: bool) -> bool:
    """True when everything held."""
    from cli.demo import show
    from cli.demo.empty import empty
    from cli.demo.events import quota_events
    from cli.demo.images import Builder
    from cli.demo.push import choose_pusher
    from cli.demo.story import Story
    from registry.connect import registry_client

    began = time.monotonic()
    show.begin()
    async with AsyncExitStack() as held_open:
        own = False
        if not connected:
            environment, own = await _environment(held_open)
            os.environ.update(environment)
        settings = settings_here()
        fresh = secrets.token_hex(4)
        # Elsewhere a workspace of this name may be somebody's.
        workspace = f"demo-{fresh}" if connected else _WORKSPACE
        api = await held_open.enter_async_context(api_client())
        registry = await held_open.enter_async_context(registry_client(settings))
        await registry.ping()
        if not connected and (gone := await empty(api, registry, workspace)):
            show.aside(f"emptied the workspace {workspace} ({plural(gone, 'manifest')})")
        began_at = datetime.now(UTC)
        events = await held_open.enter_async_context(
            quota_events(settings, workspace, show.event, since=began_at)
        )
        folder = Path(held_open.enter_context(TemporaryDirectory(prefix="registry-quota-demo-")))
        story = Story(
            workspace=workspace,
            api=api,
            registry=registry,
            pusher=choose_pusher(registry, folder, anonymous=settings.registry_username is None),
            events=events,
            builder=Builder(seed=f"{workspace} {fresh}"),
        )
        verdicts = await story.tell()
        held = all(verdict.held for verdict in verdicts)
        show.end(held=held, seconds=time.monotonic() - began)
        show.where(settings.api_address(), workspace, connected=connected, own=own)
    return held


async def _environment(held_open: AsyncExitStack) -> tuple[dict[str, str], bool]:
    """How to reach the stack that runs in this folder, else our own (True), held open."""
    from cli.demo import show
    from devstack.config import StackConfig
    from devstack.foreground import running_stack
    from devstack.registry import how_to_connect
    from devstack.stack import Stack

    config = StackConfig.from_environment(os.environ)
    running = await running_stack(config.run_dir)
    if running is not None:
        show.aside(f"using the stack that runs in {config.run_dir}")
        return running, False
    show.aside(f"starting a stack in {config.run_dir} (its data stays there)")
    own = await held_open.enter_async_context(Stack(config, say=show.aside))
    if not own.has_registry:
        hint = how_to_connect(own.webhook_url, own.webhook_token, own.registry_port)
        raise CommandError(f"the demo needs a registry:\n{hint}")
    return own.environment, True
