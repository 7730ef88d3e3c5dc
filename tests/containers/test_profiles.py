"""The profiles: the demo verifies itself, Prometheus finds every role."""

import os

import aiohttp
import pytest

from devstack.errors import StackError
from devstack.ports import LOOPBACK
from devstack.processes import run_tool
from registry.push import build_image, build_layer, push_image
from tests.acceptance.test_main_job import fresh
from tests.support.dashboard import filled_in, queries
from tests.support.waiting import wait_until

NOTHING_HAPPENED = {
    "Garbage collection",
    "Questions to storage: sizes",
    "Reconciliation: since the last finished pass",
}
"""Panels without a series as long as the system is a few minutes old."""
JOBS = {"registry-quota-receiver", "registry-quota-consumer", "registry-quota-api"}


async def had(variable, default):
    """Skip where an image of others neither is here nor can be had."""
    image = os.environ.get(variable) or default
    try:
        await run_tool(["docker", "image", "inspect", image], what="docker image inspect")
    except StackError:
        try:
            await run_tool(["docker", "pull", "--quiet", image], what="docker pull")
        except StackError:
            pytest.skip(f"no image {image} here, and it cannot be pulled (set {variable})")


async def test_the_demo_holds_in_containers(compose):
    printed = await compose("--profile", "demo", "run", "--rm", "-T", "demo")
    assert "All of it held." in printed


async def test_prometheus_scrapes_every_role(compose):
    await had("RQ_PROMETHEUS_IMAGE", "prom/prometheus:v3.5.0")
    await compose("--profile", "monitoring", "up", "--no-deps", "--wait", "prometheus")

    async def scraped():
        found = await asked(compose, "up == 1")
        return {item["metric"]["job"] for item in found} == JOBS

    await wait_until(scraped, 60, interval=1, what="every role is scraped")


async def asked(compose, expression):
    """What the project's Prometheus answers now."""
    query = f"http://{LOOPBACK}:{compose.port['PROMETHEUS']}/api/v1/query"
    async with (
        aiohttp.ClientSession() as session,
        session.get(query, params={"query": expression}) as response,
    ):
        answer = await response.json()
    assert answer["status"] == "success", (expression, answer.get("error"))
    return answer["data"]["result"]


async def test_the_dashboards_panels_have_data_once_something_was_pushed(compose, system):
    await had("RQ_PROMETHEUS_IMAGE", "prom/prometheus:v3.5.0")
    await compose("--profile", "monitoring", "up", "--no-deps", "--wait", "prometheus")
    workspace = fresh("seen")
    image = build_image([build_layer(fresh("layer"), 20_000)])
    await push_image(system.registry, f"{workspace}/app", image, "1.0")

    async def empty():
        every = {query.panel for query in queries()}
        filled = {
            query.panel
            for query in queries()
            if await asked(compose, filled_in(query.expression, interval="1m"))
        }
        return every - filled

    # Of what never happened here there is no series.
    await wait_until(lambda: _only(empty, NOTHING_HAPPENED), 90, interval=2, what="data in panels")


async def _only(empty, allowed):
    left = await empty()
    assert left <= allowed, left - allowed
    return True


async def test_grafana_has_our_dashboard(compose):
    await had("RQ_GRAFANA_IMAGE", "grafana/grafana:12.2.0")
    await compose("--profile", "monitoring", "up", "--wait", "grafana")
    found = await compose(
        *("--profile", "monitoring", "exec", "-T", "grafana"),
        *("wget", "-q", "-O", "-", "http://127.0.0.1:3000/api/search?query=registry"),
    )
    assert "registry-quota" in found
