"""`docker compose kill` of any one service while images are pushed, and its return: nothing is lost."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from registry.errors import RegistryError
from registry.names import format_digest
from registry.push import build_image, build_layer, push_image
from tests.acceptance.test_main_job import accounted, fresh, recount
from tests.support.compose import STANDING
from tests.support.waiting import wait_until

FEW = 5


@asynccontextmanager
async def pushing(system, workspace):
    """A build that pushes one image after another, each until it is there; yields their digests."""
    pushed: list[str] = []

    async def push():
        while True:
            image = build_image([build_layer(fresh("layer"), 20_000)])
            while True:
                try:
                    await push_image(system.registry, f"{workspace}/app", image, f"1.{len(pushed)}")
                    break
                except RegistryError:
                    await asyncio.sleep(0.2)
            pushed.append(format_digest(image.digest))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(push())
    try:
        yield pushed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize("service", STANDING)
async def test_a_service_that_is_killed_and_comes_back_loses_nothing(compose, system, service):
    workspace = fresh(f"killed-{service}")
    async with pushing(system, workspace) as pushed:

        async def more(number):
            wanted = len(pushed) + number
            await wait_until(lambda: len(pushed) >= wanted, 60, what=f"{number} more images")

        await more(FEW)
        await compose("kill", service)
        if service != "registry":
            await more(FEW)
        await compose("up", "--no-deps", "--wait", service)
        await more(FEW)
    if service == "registry":
        # What it had not delivered was in its memory alone.
        await compose.command("reconcile", "--workspace", workspace)
    await system.settled()
    # A push that was cut off while it was sent is there or not; the registry says which.
    tags = [tag async for tag in system.registry.list_tags(f"{workspace}/app")]
    held = {
        format_digest((await system.registry.tag_digest(f"{workspace}/app", tag)).digest)
        for tag in tags
    }
    assert set(pushed) <= held
    usage = await accounted(system, workspace, images=len(held))
    assert {item["digest"] for item in await system.images(workspace)} == held
    assert usage["usage_bytes"] == await recount(system, workspace)

    async def announced():
        events = await system.quota_events(workspace)
        return {e["data"]["digest"]: e["id"] for e in events if "image.recorded" in e["type"]}

    await wait_until(
        lambda: _same(announced, held), 30, interval=0.5, what="an event of every image"
    )
    verified = await compose.command("verify", "--workspace", workspace)
    assert "drift 0 bytes" in verified
    assert " 0 differ" in verified
    print(f"{service}: {len(pushed)} images pushed meanwhile, {len(held)} accounted, 0 lost")  # noqa: T201


async def _same(told, held):
    return (await told()).keys() == held


async def test_down_and_up_keep_everything(compose, system):
    workspace = fresh("kept")
    image = build_image([build_layer(fresh("layer"), 50_000)])
    await push_image(system.registry, f"{workspace}/app", image, "1.0")
    before = await accounted(system, workspace, images=1)
    secret = await compose.secret("RQ_API_TOKEN")
    await compose("down", "--timeout", "10")
    await compose("up", "--wait")
    assert await compose.secret("RQ_API_TOKEN") == secret
    after = await accounted(system, workspace, images=1)
    assert after["usage_bytes"] == before["usage_bytes"] == await recount(system, workspace)
