"""Prometheus's `promtool`."""

from pathlib import Path

from tests.support.debian import program_or_skip


async def promtool_or_skip() -> Path:
    """The program; skips the calling test where it cannot be had."""
    return await program_or_skip("promtool", package="prometheus", path="usr/bin/promtool")
