"""The Grafana dashboard has the shape that Grafana reads, and asks for what the processes export."""

import re
import runpy
from itertools import combinations
from typing import Any

import yaml

from cli.metric_table import exported, series
from tests.support.dashboard import DASHBOARD, FOLDER, filled_in, queries

PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
LABELS = {name: set(item.labels) | {"le"} for item in exported() for name in series(item)}


def loaded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return document


def test_it_is_a_dashboard_of_the_classic_model():
    assert DASHBOARD["uid"] == "registry-quota"
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 39
    assert "id" not in DASHBOARD  # Grafana's own number of one that it keeps
    assert DASHBOARD["time"].keys() == {"from", "to"}
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)


def test_every_panel_says_what_it_shows_and_asks_the_chosen_data_source():
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["type"] in {"timeseries", "stat", "table"}
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["datasource"] == chosen
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
        assert panel["targets"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert all(target["datasource"] == chosen for target in panel["targets"])


def test_panels_fit_on_the_grid_without_covering_each_other():
    places = [panel["gridPos"] for panel in PANELS]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_variables_that_are_used_are_there():
    offered = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert offered["datasource"]["type"] == "datasource"
    assert offered["datasource"]["query"] == "prometheus"
    text = " ".join(query.expression for query in queries())
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"}
    assert used == offered.keys() - {"datasource"}


def test_queries_ask_for_series_and_labels_that_exist():
    asked = set()
    for query in [*queries(), *_variable_queries()]:
        names = re.findall(r"registry_quota_\w+", query[1])
        assert names, query
        assert set(names) <= LABELS.keys(), query
        asked |= set(names)
        for name, matchers in re.findall(r"(registry_quota_\w+)\{([^}]*)\}", query[1]):
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= LABELS[name], query
        grouped = {
            label
            for group in re.findall(r"\bby\s*\(([^)]*)\)", query[1])
            for label in re.split(r"[,\s]+", group.strip())
        }
        assert grouped <= set.intersection(*(LABELS[name] for name in names)), query
        assert set(re.findall(r"\{\{(\w+)\}\}", query[2])) <= grouped, query
    # What nobody looks at need not be measured; some are there for the alerts alone, one for the status.
    assert {name.rpartition("_")[0] for name in LABELS if name.endswith("_bucket")} <= {
        name.removesuffix("_bucket") for name in asked
    }
    unseen = {
        name for name in LABELS.keys() - asked if not name.endswith(("_bucket", "_sum", "_count"))
    }
    assert unseen == {
        "registry_quota_watch_timestamp_seconds",
        "registry_quota_receiver_start_time_seconds",
        "registry_quota_registry_reachable",
        "registry_quota_consumer_log_breaks_total",
        "registry_quota_workspaces_without_series",
    }


def _variable_queries() -> list[tuple[str, str, str]]:
    return [
        (item["name"], item["query"]["query"], "")
        for item in DASHBOARD["templating"]["list"]
        if item["type"] == "query"
    ]


def test_nothing_of_grafana_is_left_when_variables_are_filled_in():
    for query in queries():
        assert "$" not in filled_in(query.expression, interval="1m"), query


def test_prometheus_scrapes_every_role_of_the_compose_file():
    services = yaml.safe_load((FOLDER.parents[1] / "docker-compose.yml").read_text())["services"]
    doors = runpy.run_path(str(FOLDER.parent / "image" / "healthcheck"))["DOORS"]
    found = {}
    for job in loaded("prometheus.yml")["scrape_configs"]:
        (lookup,) = job["dns_sd_configs"]
        (name,) = lookup["names"]
        assert job["job_name"] == f"registry-quota-{name}"
        found[name] = lookup["port"]
    assert found.keys() == {"receiver", "consumer", "api"}
    for name, port in found.items():
        assert services[name]["command"] == ["serve", name]
        ((variable, default),) = doors[name]
        assert port == int(services[name]["environment"].get(variable, default))


def test_provisioning_names_this_dashboard_and_its_data_source():
    (source,) = loaded("grafana/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert (
        source["jsonData"]["timeInterval"] == loaded("prometheus.yml")["global"]["scrape_interval"]
    )
    (provider,) = loaded("grafana/dashboards/registry-quota.yml")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/etc/grafana/provisioning"
