"""Prometheus's `promtool`: from the PATH, else out of Debian's package, which is not installed."""

import os
import shutil
from pathlib import Path

import pytest

from devstack.cache import built_once
from devstack.config import default_cache_dir
from devstack.errors import StackError
from devstack.processes import run_tool


async def promtool_or_skip() -> Path:
    """The program; skips the calling test where it cannot be had."""
    if found := shutil.which("promtool"):
        return Path(found)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("no promtool on the PATH, and Debian's package needs root and apt-get")
    try:
        folder = await built_once(default_cache_dir(os.environ), "promtool", _unpack)
    except StackError as error:
        pytest.skip(f"no promtool on the PATH, and Debian's package cannot be had: {error}")
    return folder / "usr" / "bin" / "promtool"


async def _unpack(work: Path) -> None:
    download = ["apt-get", "-qq", "download", "prometheus"]
    try:
        await run_tool(download, what="apt-get download", cwd=work)
    except StackError:  # a fresh machine knows no packages yet
        await run_tool(["apt-get", "-qq", "update"], what="apt-get update")
        await run_tool(download, what="apt-get download prometheus", cwd=work)
    unpack = ["sh", "-c", "dpkg-deb -x *.deb . && rm *.deb"]
    await run_tool(unpack, what="unpacking prometheus", cwd=work)
