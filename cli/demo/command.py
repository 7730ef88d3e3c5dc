"""The command: on the stack that runs in this folder, else on one that it starts and stops."""

import asyncio
import logging
import os
import secrets
import signal
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from cli.client import api_client, settings_here
from cli.console import CommandError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    connected: Annotated[
        bool,
        typer.Option(
            "--connected", help="On the system that the settings reach, in a workspace of its own."
        ),
    ] = False,
) -> None:
    """Show the main job on real parts, and verify it: push, account, announce, clean up.

    Beside a running `dev up` (`make run`) of the same folder it uses that stack with a fresh
    workspace, else it starts and stops its own. Exits 0 only if all of it held.
    """
    try:
        from devstack.errors import StackError
    except ImportError as error:
        raise CommandError(
            f"the embedded stack is not installed ({error.name}); "
            "install it with `pip install 'registry-quota[devstack]'` or use `make demo`"
        ) from error
    from registry.errors import RegistryError

    # Clients that ask for answers while a part comes up complain of what our own lines say better.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    try:
        held = asyncio.run(_until_signal(_demo(connected=connected)))
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    except (StackError, RegistryError) as error:
        raise CommandError(str(error)) from error
    if not held:
        raise typer.Exit(1)


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
    from cli.demo.events import quota_events
    from cli.demo.images import Builder
    from cli.demo.push import choose_pusher
    from cli.demo.story import Story
    from registry.connect import registry_client

    began = time.monotonic()
    show.begin()
    async with AsyncExitStack() as held_open:
        if not connected:
            os.environ.update(await _environment(held_open))
        settings = settings_here()
        workspace = f"demo-{secrets.token_hex(4)}"
        api = await held_open.enter_async_context(api_client())
        registry = await held_open.enter_async_context(registry_client(settings))
        await registry.ping()
        events = await held_open.enter_async_context(quota_events(settings, workspace, show.event))
        folder = Path(held_open.enter_context(TemporaryDirectory(prefix="registry-quota-demo-")))
        story = Story(
            workspace=workspace,
            api=api,
            registry=registry,
            pusher=choose_pusher(registry, folder, anonymous=settings.registry_username is None),
            events=events,
            builder=Builder(seed=workspace),
        )
        verdicts = await story.tell()
        held = all(verdict.held for verdict in verdicts)
        show.end(held=held, seconds=time.monotonic() - began)
    return held


async def _environment(held_open: AsyncExitStack) -> dict[str, str]:
    """How to reach the stack: the one that runs in this folder, else our own, held open."""
    from cli.demo import show
    from devstack.config import StackConfig
    from devstack.foreground import running_stack
    from devstack.registry import how_to_connect
    from devstack.stack import Stack

    config = StackConfig.from_environment(os.environ)
    running = await running_stack(config.run_dir)
    if running is not None:
        show.aside(f"using the stack that runs in {config.run_dir}")
        return running
    show.aside(f"starting a stack in {config.run_dir} (its data stays there)")
    own = await held_open.enter_async_context(Stack(config, say=show.aside))
    if not own.has_registry:
        hint = how_to_connect(own.webhook_url, own.webhook_token, own.registry_port)
        raise CommandError(f"the demo needs a registry:\n{hint}")
    return own.environment
