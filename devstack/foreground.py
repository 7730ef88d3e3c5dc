"""`make run`: the whole stack in the foreground of a terminal, until Ctrl-C."""

import asyncio
import logging
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import aiohttp

from devstack.config import StackConfig
from devstack.errors import StackError
from devstack.parts import Say
from devstack.registry import get_ok, how_to_connect
from devstack.rundir import RunDir, parse_env
from devstack.stack import Stack

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_foreground(config: StackConfig | None = None) -> int:
    """Run the whole stack until SIGINT, SIGTERM or SIGHUP; progress goes to standard output.

    `config` comes from the environment unless given. Returns the exit code: 0 after a signal, 1 when
    the stack cannot start (why is on standard error).
    """
    # Clients that ask for answers while a part comes up complain of what our own lines say better.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    try:
        return asyncio.run(_run(config or StackConfig.from_environment(os.environ)))
    except StackError as error:
        print(f"registry-quota: {error}", file=sys.stderr, flush=True)
        return 1


async def _run(config: StackConfig) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        # `nohup` means: not by SIGHUP. (A shell's `&` ignores SIGINT too, and does not mean it.)
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stopping.set)
    say = clocked()
    stack = Stack(config, say=say)
    try:
        stopped = asyncio.create_task(stopping.wait())
        starting = asyncio.create_task(stack.start())
        await asyncio.wait({stopped, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            show(summary(stack))
            await stopped
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        say("stopping")
        return 0
    finally:
        began = time.monotonic()
        await stack.stop()
        if stopping.is_set():
            took = time.monotonic() - began
            say(f"everything ended after {took:.1f} s; data stays in {config.run_dir}")


def clocked() -> Say:
    """A `Say` that prints to standard output, with the time of day."""

    def say(line: str, /) -> None:
        show(f"{time.strftime('%H:%M:%S')} {line}")

    return say


def show(text: str) -> None:
    """Print; when nobody reads any more (a closed terminal, `| head`) the stack goes on all the same."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def summary(stack: Stack) -> str:
    """What a person wants to know of a stack that answers."""
    values = stack.environment
    registry = f"  registry   {stack.registry_url}"
    if not stack.has_registry:
        registry = how_to_connect(stack.webhook_url, stack.webhook_token, stack.registry_port)
    return "\n".join(
        (
            "",
            "registry-quota runs:",
            f"  API        {values['RQ_API_URL']} (in a browser: the pages)",
            f"  webhook    {values['RQ_WEBHOOK_URL']}",
            registry,
            f"  Kafka      {values['RQ_KAFKA_BOOTSTRAP']}",
            f"  addresses and tokens for programs: . {shlex.quote(str(stack.run_dir.env))}",
            "             (its RQ_API_TOKEN signs in to the pages)",
            f"  logs       {stack.run_dir.logs}/",
            "Nothing is pushed to it by itself: `registry-quota demo` (`make demo`) in a second terminal fills",
            "the workspace `demo`, docs/getting-started.md pushes by hand.",
            "Ctrl-C stops all of it; the data stays.",
            "",
        )
    )


async def running_stack(run_dir: Path) -> dict[str, str] | None:
    """The `env` of the stack that runs in `run_dir` now and answers, None when there is none."""
    folder = RunDir(run_dir)
    if not folder.is_locked():
        return None
    try:
        values = parse_env(folder.env.read_text())
        await get_ok(f"{values['RQ_API_URL']}/healthz")
    except (OSError, KeyError, TimeoutError, aiohttp.ClientError):
        return None
    return values
