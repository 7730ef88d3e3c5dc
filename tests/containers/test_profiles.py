"""The profiles: the demo verifies itself, Prometheus finds every role."""

import os

import aiohttp
import pytest

from devstack.errors import StackError
from devstack.ports import LOOPBACK
from devstack.processes import run_tool
from tests.support.waiting import wait_until

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
    query = f"http://{LOOPBACK}:{compose.port['PROMETHEUS']}/api/v1/query"

    async def scraped():
        async with (
            aiohttp.ClientSession() as session,
            session.get(query, params={"query": "up == 1"}) as response,
        ):
            answer = await response.json()
        return {item["metric"]["job"] for item in answer["data"]["result"]} == JOBS

    await wait_until(scraped, 60, interval=1, what="every role is scraped")


async def test_grafana_has_our_dashboard(compose):
    await had("RQ_GRAFANA_IMAGE", "grafana/grafana:12.2.0")
    await compose("--profile", "monitoring", "up", "--wait", "grafana")
    found = await compose(
        *("--profile", "monitoring", "exec", "-T", "grafana"),
        *("wget", "-q", "-O", "-", "http://127.0.0.1:3000/api/search?query=registry"),
    )
    assert "registry-quota" in found
