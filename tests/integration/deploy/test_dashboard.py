"""A real Prometheus scrapes what the processes export and answers every query of the dashboard."""

import asyncio
import contextlib
import itertools
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cli.metric_table import registries
from devstack.ports import free_port
from runtime.http import serving
from tests.support.dashboard import FOLDER, filled_in, queries
from tests.support.promtool import promtool_or_skip
from tests.support.waiting import wait_until
from webhook_receiver.messages import Arrival, Message, Reason
from webhook_receiver.metrics import ReceiverMetrics

SOME = {
    "level": ("ok", "exceeded"),
    "state": ("total", "done"),
    "workspace": ("acme",),
}
"""Values that the queries choose by; of other labels any do."""


def happen(registry: CollectorRegistry) -> None:
    """Everything that can be counted or set, once."""
    for collector in list(registry._collector_to_names):
        if isinstance(collector, ReceiverMetrics):
            event = Message("registry.notifications", None, b"", [], "push")
            letter = Arrival("default", 0).dead_letter(b"", Reason.BAD_EVENT, "why")
            collector.stored([event, letter])
            collector.acknowledged(0.002)
            collector.answered(202)
            continue
        labels = getattr(collector, "_labelnames", ())
        for values in itertools.product(*(SOME.get(label, ("some",)) for label in labels)):
            child: Any = collector.labels(*values) if labels else collector  # type: ignore[attr-defined]
            if isinstance(child, Counter):
                child.inc()
            elif isinstance(child, Histogram):
                child.observe(0.5)
            elif isinstance(child, Gauge) and not hasattr(child, "_function"):
                with contextlib.suppress(AttributeError):
                    child.set(1)


@pytest.fixture(scope="module")
async def prometheus(tmp_path_factory) -> AsyncIterator[str]:
    """The repository's configuration, with addresses of this machine and no patience."""
    program = (await promtool_or_skip()).with_name("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(FOLDER / "alerts.yml")]
    async with AsyncExitStack() as stack:
        for job in config["scrape_configs"]:
            (lookup,) = job.pop("dns_sd_configs")
            registry = registries()[lookup["names"][0]]

            async def exposition(
                _request: web.Request, registry: CollectorRegistry = registry
            ) -> web.Response:
                happen(registry)
                return web.Response(body=generate_latest(registry), content_type="text/plain")

            app = web.Application()
            app.router.add_get("/metrics", exposition)
            port = await stack.enter_async_context(serving(app, host="127.0.0.1", port=0))
            job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [
                    program,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            await asyncio.to_thread(process.wait, 10)


async def test_every_query_of_the_dashboard_has_an_answer(prometheus):
    async with aiohttp.ClientSession() as session:

        async def unanswered() -> list[str]:
            left = []
            for query in queries():
                asked = filled_in(query.expression, interval="1m")
                async with session.get(
                    f"{prometheus}/api/v1/query", params={"query": asked}
                ) as response:
                    document = await response.json()
                if document["status"] != "success":
                    pytest.fail(f"{query.panel}: {document['error']}")
                if not document["data"]["result"]:
                    left.append(f"{query.panel}: {asked}")
            return left

        async def none_is_left() -> bool:
            left = await unanswered()
            assert left == []
            return True

        await wait_until(none_is_left, 30, interval=0.2)


async def test_the_alert_rules_are_evaluated(prometheus):
    async def healthy() -> bool:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{prometheus}/api/v1/rules") as response,
        ):
            groups = (await response.json())["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert rules
        assert {rule["health"] for rule in rules} == {"ok"}, [
            rule.get("lastError") for rule in rules
        ]
        return True

    await wait_until(healthy, 30, interval=0.1)
