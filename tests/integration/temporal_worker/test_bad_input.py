"""What a workflow should not send: told by field and never tried again, and what it may say opens nothing."""

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_worker.activities import QuotaActivities
from tests.integration.quota.grpc.conftest import INTERNAL, Door

LONG = "x" * 300
WRONG: list[tuple[Any, str]] = [
    (None, "object"),
    ([], "object"),
    ("acme", "object"),
    ({}, "workspaceId"),
    ({"workspaceId": None}, "workspaceId"),
    ({"workspaceId": 5}, "workspaceId"),
    ({"workspaceId": ""}, "workspaceId: required"),
    ({"workspaceId": "\ud800"}, "workspaceId: "),
    ({"workspaceId": "x" * 70_000}, "at most 65536 are taken"),
]
CHECK = [
    *WRONG,
    ({"workspaceId": "acme", "incomingImageSizeEstimate": 2**63}, "incomingImageSizeEstimate: "),
    ({"workspaceId": "acme", "incomingImageSizeEstimate": -(2**70)}, "incomingImageSizeEstimate: "),
    ({"workspaceId": "acme", "incomingImageSizeEstimate": "5"}, "incomingImageSizeEstimate"),
    ({"workspaceId": "acme", "incomingImageSizeEstimate": 1e30}, "incomingImageSizeEstimate: "),
    ({"workspaceId": "acme", "incomingImageSizeEstimate": float("nan")}, "Estimate"),
]
IMAGE = {"workspaceId": "acme", "appId": "api", "tag": "v1", "repository": "acme/api"}
TRACK = [
    *WRONG[:3],
    *((IMAGE | given, told) for given, told in WRONG[4:] if isinstance(given, dict)),
    (IMAGE | {"tag": ["v1"]}, "tag"),
    (IMAGE | {"digest": {"a": 1}}, "digest"),
    (IMAGE | {"registryUrl": "http://169.254.169.254/" + "x" * 70_000}, "at most 65536 are taken"),
]


async def attempt(work: Callable[..., Awaitable[Any]], given: object) -> Any:
    """An activity as a worker runs it."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(
        environment.info,
        started_time=datetime.now(UTC),
        start_to_close_timeout=timedelta(seconds=60),
    )
    return await environment.run(work, given)


async def test_each_wrong_field_is_named_and_nothing_is_tried_again() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nobody:
        ours = QuotaActivities(nobody, INTERNAL)
        for work, cases in ((ours.check_quota, CHECK), (ours.track_image, TRACK)):
            for given, expected in cases:
                with pytest.raises(ApplicationError, match=expected) as told:
                    await attempt(work, given)
                assert told.value.non_retryable, given
                assert told.value.type == "INVALID"


async def test_what_the_door_refuses_to_read_is_an_answer_and_changes_nothing(door: Door) -> None:
    ours = QuotaActivities(door.channel, INTERNAL)
    for changes, expected in (
        ({"workspaceId": "a\x1b[31mb"}, "workspace_id: control characters"),
        ({"workspaceId": LONG}, "workspace_id: at most 255"),
        ({"tag": "../v1"}, "tag: "),
        ({"digest": "sha256:zz"}, "digest: "),
        ({"repository": "http://169.254.169.254/latest"}, "repository: "),
        ({"repository": "acme/../other/api"}, "repository: "),
        ({"registryUrl": "http://169.254.169.254/"}, "the registry does not have it"),
    ):
        tracked = await attempt(ours.track_image, IMAGE | changes)
        assert expected in tracked.error, (changes, tracked.error)
    checked = await attempt(
        ours.check_quota, {"workspaceId": "acme", "incomingImageSizeEstimate": 2**63 - 1}
    )
    assert "incoming_image_size_estimate" in checked.error
    assert not await door.behind.pool.fetch("SELECT FROM repositories")


async def test_an_estimate_that_was_computed_need_not_be_whole(door: Door) -> None:
    ours = QuotaActivities(door.channel, INTERNAL)
    for estimate in (1.2 * 10_000, 10_000.5):
        given = {"workspaceId": "acme", "incomingImageSizeEstimate": estimate}
        assert not (await attempt(ours.check_quota, given)).error


async def test_a_worker_with_a_tenants_token_opens_that_workspace_alone(door: Door) -> None:
    await door.behind.push("acme/api", "v1", 10_000)
    tenant = await door.token("hook", "write", workspaces=["other"])
    ours = QuotaActivities(door.channel, tenant)
    calls = (
        (ours.check_quota, {"workspaceId": "acme"}),
        (ours.track_image, IMAGE),
        (ours.track_image, IMAGE | {"workspaceId": "other"}),
    )
    for work, given in calls:
        with pytest.raises(ApplicationError, match="PERMISSION_DENIED") as told:
            await attempt(work, given)
        assert told.value.non_retryable
        assert tenant not in str(told.value)
    mine = await attempt(ours.check_quota, {"workspaceId": "other"})
    assert not mine.error
