"""Programs, for as long as they are measured."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
import psutil

from devstack.stack import Stack


@contextmanager
def running(
    argv: Sequence[Any], environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program while the context lasts; `environment` is added to this process's.

    In a session of its own, as the parts of a stack are: Linux shares the processor among sessions
    (autogroup), and a program that shares one with its own load gets less of it.
    """
    process = subprocess.Popen(
        [str(word) for word in argv],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def consuming(stack: Stack, group: str) -> Iterator[psutil.Process]:
    """A consumer of ours, started by hand: its backlog stands in Kafka before.

    `group`: one that has read nothing yet, or the emptied ledger would be taken for an older backup.
    """
    argv = [sys.executable, "-m", "cli.main", "serve", "consumer"]
    with running(
        argv, {**stack.environment, "RQ_LOG_LEVEL": "warning", "RQ_KAFKA_GROUP": group}
    ) as process:
        yield psutil.Process(process.pid)


async def taking(url: str, body: bytes, token: str) -> None:
    """Return when a program takes this by POST. Raises TimeoutError when it does not in 20 seconds."""
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for _attempt in range(200):
            try:
                async with session.post(url, data=body) as answer:
                    if answer.status in (200, 202):
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise TimeoutError(f"{url} does not answer")
