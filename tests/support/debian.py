"""Programs of Debian's packages for tests: from the PATH, else out of a package that is not installed."""

import os
import shutil
from pathlib import Path

import pytest

from devstack.cache import built_once, locked
from devstack.config import default_cache_dir
from devstack.errors import StackError
from devstack.processes import run_tool


async def program_or_skip(name: str, *, package: str, path: str) -> Path:
    """The program; `path` is where the package has it. Skips the calling test where there is none."""
    if found := shutil.which(name):
        return Path(found)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"no {name} on the PATH, and Debian's package needs root and apt-get")

    async def unpack(work: Path) -> None:
        download = ["apt-get", "-qq", "download", package]
        async with locked(default_cache_dir(os.environ), "apt"):
            try:
                await run_tool(download, what="apt-get download", cwd=work)
            except StackError:  # a fresh machine knows no packages yet
                await run_tool(["apt-get", "-qq", "update"], what="apt-get update")
                await run_tool(download, what=f"apt-get download {package}", cwd=work)
        take_apart = ["sh", "-c", "dpkg-deb -x *.deb . && rm *.deb"]
        await run_tool(take_apart, what=f"unpacking {package}", cwd=work)

    try:
        folder = await built_once(default_cache_dir(os.environ), name, unpack)
    except StackError as error:
        pytest.skip(f"no {name} on the PATH, and Debian's package cannot be had: {error}")
    return folder / path
