"""The metrics' table and the alert rules name what the processes export."""

import re
from pathlib import Path

import yaml

from cli.metric_table import document, exported, series

ROOT = Path(__file__).resolve().parents[3]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/monitoring/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def test_the_table_is_that_of_the_code():
    kept = (ROOT / "docs/reference/metrics.md").read_text()
    assert kept == document(), "run `make reference`"


def test_every_metric_has_a_meaning_and_our_prefix():
    assert exported()
    for item in exported():
        assert item.name.startswith("registry_quota_")
        assert len(item.meaning) > 10, item.name


def test_alerts_ask_for_series_that_exist():
    names = {name for item in exported() for name in series(item)}
    for rule in RULES:
        asked = set(re.findall(r"registry_quota_\w+", rule["expr"]))
        assert asked, rule["alert"]
        assert asked <= names, rule["alert"]


def test_alerts_say_how_bad_it_is_and_what_to_do():
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 20
