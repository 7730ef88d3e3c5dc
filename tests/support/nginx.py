"""nginx with a configuration of one's own."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from devstack.errors import StackError
from devstack.processes import run_tool
from tests.support.debian import program_or_skip
from tests.support.waiting import wait_until

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


async def nginx_or_skip() -> Path:
    """The program; skips the calling test where it cannot be had."""
    program = await program_or_skip("nginx", package="nginx", path="usr/sbin/nginx")
    try:
        await run_tool([program, "-v"], what="nginx")
    except StackError as error:  # a library that the package depends on is not here
        pytest.skip(str(error))
    return program


@asynccontextmanager
async def running_nginx(servers: str, folder: Path, *ports: int) -> AsyncIterator[None]:
    """nginx with these `server` blocks; returns when it listens on `ports`."""
    program = await nginx_or_skip()
    user = "user root;\n" if os.geteuid() == 0 else ""
    temporary = "\n".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"{user}daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}\n{servers}\n}}\n"
    )
    process = _start([program, "-p", folder, "-e", folder / "nginx.log", "-c", configuration])
    try:
        for port in ports:
            await wait_until(partial(_listens, port), 10, what=f"nginx at port {port}")
        yield
    finally:
        process.terminate()
        process.wait(5)


def _start(command: list[str | Path]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
