"""Prometheus's own tool reads the alert rules and the configuration, and plays the rules."""

from pathlib import Path

import pytest

from devstack.processes import run_tool
from tests.support.promtool import promtool_or_skip

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "monitoring"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
)
async def test_promtool_agrees(arguments):
    tool = await promtool_or_skip()
    printed = await run_tool([tool, *arguments], what="promtool", cwd=FOLDER)
    assert "SUCCESS" in printed
