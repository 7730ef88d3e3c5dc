"""One trace from a registry's notification to the quota event, through real processes."""

import json
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from devstack.ports import free_port
from idp.build.v1.build_pb2 import CheckQuotaRequest
from idp.build.v1.build_pb2_grpc import BuildServiceStub
from runtime.kafka import (
    DEAD_LETTER_TOPIC,
    QUOTA_EVENTS_TOPIC,
    create_topics,
)
from runtime.settings import Settings
from tests.support.database import cloned_database
from tests.support.deliveries import envelope, event
from tests.support.inbox import Inbox, Record, inbox
from tests.support.otlp import Collector, collecting
from tests.support.programs import Program, running
from tests.support.waiting import wait_until

TOKEN = "token-of-a-traced-test"


@dataclass
class Traced:
    """The three roles as processes that send their traces, and what they sent."""

    collector: Collector
    http: aiohttp.ClientSession
    ports: dict[str, int]
    programs: dict[str, Program]
    events: Inbox
    dead_letters: Inbox
    logs: Path
    _records: list[Record]

    async def post(self, port: str, path: str, **options: Any) -> int:
        async with self.http.post(
            f"http://127.0.0.1:{self.ports[port]}{path}", **options
        ) as response:
            await response.read()
            return response.status

    async def ready(self) -> bool:
        for name in ("receiver", "consumer", "api"):
            async with self.http.get(f"http://127.0.0.1:{self.ports[name]}/readyz") as response:
                if response.status != 200:
                    return False
        return True

    async def record(self, key: str, *, within: Inbox) -> Record:
        """The one record of a workspace. AssertionError while there is none."""
        self._records += await within.read()
        found = [record for record in self._records if record.key == key.encode()]
        assert len(found) == 1
        return found[0]


def traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def bearer(**more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}", **more}


@asynccontextmanager
async def tracing(kafka_bootstrap: str, postgres_url: str, folder: Path) -> AsyncIterator[Traced]:
    """Receiver, consumer and API that send their spans to a collector."""
    await create_topics(Settings(kafka_bootstrap=kafka_bootstrap))
    ports = {name: free_port() for name in ("receiver", "consumer", "api", "grpc")}
    async with AsyncExitStack() as stack:
        database_url = await stack.enter_async_context(cloned_database(postgres_url))
        collector = await stack.enter_async_context(collecting())
        settings = {
            "RQ_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "RQ_KAFKA_GROUP": f"traced-{uuid.uuid4().hex}",
            "RQ_DATABASE_URL": database_url,
            "RQ_REGISTRY_URL": "http://127.0.0.1:9",
            "RQ_WEBHOOK_TOKENS": TOKEN,
            "RQ_API_TOKEN": TOKEN,
            "RQ_INTERNAL_API_KEY": secrets.token_hex(16),
            "RQ_RECONCILE_INTERVAL": "0",
            "RQ_DEAD_LETTER_CEILING": "0",  # what other tests left in the topic is theirs
            "RQ_RECEIVER_PORT": str(ports["receiver"]),
            "RQ_CONSUMER_METRICS_PORT": str(ports["consumer"]),
            "RQ_API_PORT": str(ports["api"]),
            "RQ_GRPC_PORT": str(ports["grpc"]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        programs = {
            name: await stack.enter_async_context(
                running(("serve", name), settings, folder / f"{name}.log")
            )
            for name in ("receiver", "consumer", "api")
        }
        found = Traced(
            collector,
            await stack.enter_async_context(aiohttp.ClientSession()),
            ports,
            programs,
            await stack.enter_async_context(inbox(kafka_bootstrap, QUOTA_EVENTS_TOPIC)),
            await stack.enter_async_context(inbox(kafka_bootstrap, DEAD_LETTER_TOPIC)),
            folder,
            [],
        )
        await wait_until(found.ready, 60)
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced(kafka_bootstrap, postgres_url, tmp_path_factory) -> AsyncIterator[Traced]:
    async with tracing(kafka_bootstrap, postgres_url, tmp_path_factory.mktemp("traced")) as found:
        yield found


async def test_one_trace_leads_from_the_notification_to_the_quota_event(traced: Traced):
    workspace, origin = f"t{uuid.uuid4().hex[:8]}", traceparent()
    trace = origin.split("-")[1]
    body = envelope(event(f"{workspace}/web", digest=f"sha256:{uuid.uuid4().hex * 2}"))
    headers = bearer(traceparent=origin)
    assert await traced.post("receiver", "/v1/notifications", data=body, headers=headers) == 202

    async def announced() -> Record:
        return await traced.record(workspace, within=traced.events)

    record = await wait_until(announced, 30, interval=0.1)
    published = await wait_until(
        lambda: traced.collector.of(trace, "send registry.quota-events"), 10
    )
    assert record.headers["traceparent"].decode() == published.traceparent

    delivery = traced.collector.of(trace, "POST /v1/notifications")
    taken = traced.collector.of(trace, "process push")
    assert [delivery.service, taken.service, published.service] == [
        "registry-quota-receiver",
        "registry-quota-consumer",
        "registry-quota-api",
    ]
    assert [delivery.parent, taken.parent, published.parent] == [
        origin.split("-")[2],
        delivery.span,
        taken.span,
    ]
    assert delivery.attributes["http.response.status_code"] == 202
    assert taken.attributes["registry_quota.workspace"] == workspace
    assert taken.attributes["registry_quota.result"] == "recorded"
    assert published.attributes["registry_quota.event_type"].endswith("image.recorded.v1")

    # The transaction is the batch's, whose events may come from many traces: it names them.
    ((batch_trace, batch_span),) = taken.links
    batch = traced.collector.of(batch_trace, "process registry.notifications")
    assert batch.span == batch_span
    assert (delivery.trace, delivery.span) in batch.links
    assert traced.collector.of(batch_trace, "record in the ledger").parent == batch.span


async def test_what_cannot_be_read_keeps_its_trace_among_the_dead_letters(traced: Traced):
    origin = traceparent()
    workspace = f"t{uuid.uuid4().hex[:8]}"
    body = envelope(event(f"{workspace}/web", action="explode"))
    headers = bearer(traceparent=origin)
    assert await traced.post("receiver", "/v1/notifications", data=body, headers=headers) == 202

    async def dead() -> Record:
        return await traced.record(workspace, within=traced.dead_letters)

    record = await wait_until(dead, 10, interval=0.1)
    delivery = await wait_until(
        lambda: traced.collector.of(origin.split("-")[1], "POST /v1/notifications"), 10
    )
    assert record.headers["traceparent"].decode() == delivery.traceparent


async def test_a_build_finds_the_decision_in_its_own_trace_by_http_and_by_grpc(traced: Traced):
    origin = traceparent()
    trace = origin.split("-")[1]
    asked = {"workspace": "nobody", "incoming_bytes": 5}
    headers = bearer(traceparent=origin)
    assert await traced.post("api", "/v1/hooks/pre-build", json=asked, headers=headers) == 200
    span = await wait_until(lambda: traced.collector.of(trace, "POST /v1/hooks/pre-build"), 10)
    assert (span.parent, span.failed) == (origin.split("-")[2], False)
    assert span.attributes["http.route"] == "/v1/hooks/pre-build"
    assert span.attributes["registry_quota.workspace"] == "nobody"
    assert span.attributes["registry_quota.decision"] == "proceed"
    assert span.attributes["registry_quota.reason"] == "below_threshold"
    # The log and the trace lead to each other.
    (line,) = [
        line
        for line in map(json.loads, (traced.logs / "api.log").read_text().splitlines())
        if line.get("trace_id") == trace and line["event"] == "pre_build"
    ]
    assert line["workspace"] == "nobody"

    origin = traceparent()
    metadata = (("authorization", f"Bearer {TOKEN}"), ("traceparent", origin))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{traced.ports['grpc']}") as channel:
        await BuildServiceStub(channel).CheckQuotaAndCleanup(
            CheckQuotaRequest(workspace_id="nobody"), metadata=metadata
        )
    name = "idp.build.v1.BuildService/CheckQuotaAndCleanup"
    span = await wait_until(lambda: traced.collector.of(origin.split("-")[1], name), 10)
    assert span.parent == origin.split("-")[2]
    assert span.attributes["rpc.grpc.status_code"] == 0
    assert span.attributes["registry_quota.decision"] == "proceed"


async def test_strangers_and_health_checks_leave_no_trace(traced: Traced):
    refused = traceparent()
    headers = {"Authorization": "Bearer wrong", "traceparent": refused}
    assert await traced.post("receiver", "/v1/notifications", data=b"", headers=headers) == 401
    assert await traced.post("api", "/v1/hooks/pre-build", json={}, headers=headers) == 401
    assert await traced.ready()
    # Spans of a process are sent in the order of their ends.
    seen = traceparent()
    for port in ("receiver", "api"):
        await traced.post(port, "/nowhere", headers=bearer(traceparent=seen))
    await wait_until(
        lambda: (
            len([span for span in traced.collector.spans if span.trace == seen.split("-")[1]]) == 2
        ),
        10,
    )
    assert all(span.trace != refused.split("-")[1] for span in traced.collector.spans)
    assert not [span for span in traced.collector.spans if "readyz" in span.name]


@pytest.mark.alone
async def test_a_collector_that_is_away_holds_nothing_up_neither_work_nor_the_stop(
    kafka_bootstrap, postgres_url, tmp_path
):
    async with tracing(kafka_bootstrap, postgres_url, tmp_path) as traced:
        traced.collector.refusing = True
        body = envelope(event(f"t{uuid.uuid4().hex[:8]}/web"))
        assert (
            await traced.post("receiver", "/v1/notifications", data=body, headers=bearer()) == 202
        )
        for program in traced.programs.values():
            code, seconds = await program.stop()
            assert code == 0
            assert seconds < 4
