"""The disk of Kafka or of Postgres is full: nothing is lost, and all goes on when there is room."""

import time
import uuid
from pathlib import Path

import aiohttp
import pytest

from devstack.config import StackConfig
from devstack.stack import OWN, Stack
from registry.client import RegistryClient
from tests.support.consumers import event
from tests.support.inbox import event_ids
from tests.support.load import Load
from tests.support.promises import Promise, Scale
from tests.support.small_disk import small_disk
from tests.support.system import System
from tests.support.waiting import wait_until

EACH = 5100
"""Bytes of one event's image."""
MOST_SECONDS = 0.8 + 2.0
"""The receiver's time for an answer, and what a busy machine may add."""


@pytest.mark.promise("full-disk")
async def test_a_full_disk_loses_nothing_and_everything_goes_on_when_there_is_room(
    tmp_path: Path, promise: Promise, scale: Scale
):
    if not scale.long:
        pytest.skip("starts a system of its own: part of `make faults`")
    run_dir = tmp_path
    with (
        small_disk(run_dir / "kafka" / "log", 150) as kafkas,
        small_disk(run_dir / "postgres", 300) as postgres,
    ):
        config = StackConfig.for_tests(run_dir)
        async with (
            Stack(config, parts=("kafka", "postgres", *OWN)) as stack,
            aiohttp.ClientSession() as session,
            RegistryClient(stack.registry_url) as registry,
        ):
            system = System(stack, session, registry)
            name = f"d{uuid.uuid4().hex[:6]}"
            path = f"/v1/workspaces/{name}"
            assert (await system.call("PATCH", path, {"quota_bytes": 10**9}))[0] == 200
            load = Load(
                system.environment["RQ_WEBHOOK_URL"], system.environment["RQ_WEBHOOK_TOKEN"]
            )
            load.make = lambda id_, number: event(f"{name}/app", tag=str(number)) | {"id": id_}

            async with load.running("full", workers=4):
                await load.reaches(100)
                load.slowest, refused = 0.0, load.answers[503]
                kafkas.fill()
                await wait_until(lambda: load.answers[503] >= refused + 50, 60, what="it says 503")
                kafkas.empty()
                emptied = time.monotonic()
                await load.reaches(50, within=60)
                promise.worst("Kafka: recovery", time.monotonic() - emptied)
            promise.worst("Kafka: slowest answer", load.slowest)
            promise.count("told to come again (503)", load.answers[503])
            assert set(load.answers) == {202, 503}, load.answers
            assert load.slowest < MOST_SECONDS

            async with load.running("full", workers=4):
                refused = load.answers[503]
                postgres.fill()

                async def stands_still() -> bool:
                    before = await system.call("GET", f"{path}/usage")
                    await load.reaches(300)
                    after = await system.call("GET", f"{path}/usage")
                    assert {before[0], after[0]} <= {200, 503}
                    return after[0] == 503 or after[1] | {"as_of": 0} == before[1] | {"as_of": 0}

                await wait_until(stands_still, 120, what="nothing can be recorded any more")
                assert "No space left" in stack.run_dir.log("postgres").read_text()
                hook = {"workspace": name, "timeout_s": 2}
                status, answer = await system.call("POST", "/v1/hooks/pre-build", hook)
                assert (status, answer["decision"]) == (200, "proceed")
                await load.reaches(100)
                assert load.answers[503] == refused, "the receiver needs no database"
                postgres.empty()
                emptied = time.monotonic()
                await load.reaches(50)
            await system.settled(90)
            promise.worst("Postgres: recovery, caught up", time.monotonic() - emptied)
            stored = await event_ids(stack.kafka_bootstrap)
            lost = load.acknowledged - stored
            drift = await system.usage(name) - EACH * len(stored)
            promise.count("acknowledged", len(load.acknowledged))
            promise.count("lost", len(lost))
            promise.count("counter drift", abs(drift), "bytes")
            assert lost == set()
            assert drift == 0
