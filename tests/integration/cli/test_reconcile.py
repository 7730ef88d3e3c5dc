"""`registry-quota reconcile` beside a real database and a registry that told nobody of its images."""

import json
import re
import uuid

import asyncpg
import pytest_asyncio

from registry.client import RegistryClient
from registry.push import build_image, build_layer, push_image


@pytest_asyncio.fixture
async def quiet(backend):
    """A registry whose notifications go nowhere."""
    async with (
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as registry,
        RegistryClient(registry.url) as client,
    ):
        yield client


async def test_an_existing_registry_is_taken_in_by_one_command(system, command, quiet):
    name = f"cli-{uuid.uuid4().hex[:8]}"
    for number in range(5):
        image = build_image([build_layer(f"{name}/{number}", 500)])
        await push_image(quiet, f"{name}/api", image, f"1.{number}")
    there = {"RQ_REGISTRY_URL": str(quiet.base)}

    first = await command("reconcile", "--workspace", name, **there)
    assert first.code == 0, first
    assert "mended" in first.out
    assert "Untagged manifests from before the installation" in first.out
    assert "Traceback" not in first.err
    assert len(await system.images(name)) == 5

    again = await command("reconcile", "--workspace", name, "--json", **there)
    assert again.code == 0, again
    report = json.loads(again.out)
    assert (report["repositories"], report["manifests"], report["drift"]) == (1, 5, [])

    workspace = await system.get(f"/v1/workspaces/{name}")
    assert workspace["configured"] is False
    assert (await command("cleanup", name)).code == 0
    assert len(await system.images(name)) == 5, "not cleaned before somebody configured it"


async def test_an_older_database_is_confirmed_by_a_person_and_for_all_workspaces(system, command):
    refused = await command("reconcile", "--workspace", "acme", "--confirm-restored")
    assert (refused.code, "all workspaces" in refused.err) == (2, True)
    connection = await asyncpg.connect(system.stack.database_url)
    try:
        await connection.execute(
            "INSERT INTO log_breaks (cluster_id, topic, partition, kind, stored_offset, first_offset,"
            " end_offset, resumed_offset, found_at) VALUES ('c', 't', 0, 'older_database', 1, 0, 2, 1, now())"
        )
    finally:
        await connection.close()
    assert (await system.get("/v1/status"))["log"]["restored_at"] is not None
    confirmed = await command("reconcile", "--confirm-restored")
    if number := re.search(r"--forgetting (\d+)", confirmed.out):
        # Other tests of this system have told of images that no registry has.
        gone = await command("reconcile", "--confirm-now", "--forgetting", number[1])
        assert gone.code == 0, gone
        confirmed = await command("reconcile", "--confirm-restored")
    assert confirmed.code == 0, confirmed
    assert (await system.get("/v1/status"))["log"]["restored_at"] is None


async def test_a_registry_that_is_away_is_one_sentence_and_exit_code_1(system, command):
    ran = await command("reconcile", RQ_REGISTRY_URL="http://127.0.0.1:9")
    assert ran.code == 1
    assert "goes on where it stopped" in ran.err
    assert "Traceback" not in ran.err
    status = await system.get("/v1/status")
    assert status["reconciliation"]["running"] is False
    assert status["reconciliation"]["last_error"]
