"""The Grafana dashboard of the repository, as its tests look at it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "registry-quota.json").read_text())


class Query(NamedTuple):
    """What a panel asks Prometheus for, and how it names the answers."""

    panel: str
    expression: str
    legend: str


def queries() -> Iterator[Query]:
    """Every query of every panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield Query(panel["title"], target["expr"], target["legendFormat"])


def filled_in(expression: str, *, interval: str, workspace: str = ".*") -> str:
    """An expression with Grafana's variables replaced, as Grafana sends it."""
    return expression.replace("$__rate_interval", interval).replace("$workspace", workspace)
