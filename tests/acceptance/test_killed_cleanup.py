"""kill -9 of the API process in the middle of a cleanup: its successor finishes the run."""

import asyncio
import os
import signal
import uuid

import aiohttp

from registry.push import build_image, build_layer, push_image
from tests.support.waiting import wait_until

IMAGES = 60


async def test_a_killed_cleanup_is_finished_by_the_next_process(system2):
    name = f"killed-{uuid.uuid4().hex[:8]}"
    for number in range(IMAGES):
        image = build_image([build_layer(f"{name}/{number}", 20_000)])
        await push_image(system2.registry, f"{name}/api", image, f"1.{number}")
    await system2.settled()
    policy = {"max_ratio_per_run": 1}
    body = {"quota_bytes": 400_000, "policy": policy}
    assert (await system2.call("PATCH", f"/v1/workspaces/{name}", body))[0] == 200
    before = await system2.usage(name)
    runs = f"/v1/workspaces/{name}/cleanups"

    cleaning = asyncio.create_task(system2.call("POST", runs, {}))

    async def begun():
        for run in (await system2.get(runs))["items"]:
            items = (await system2.get(f"{runs}/{run['id']}"))["items"]
            done = sum(item["state"] == "deleted" for item in items)
            if 0 < done < len(items):
                return run["id"]
        return None

    identifier = await wait_until(begun, 20, interval=0, what="the cleanup is in the middle")
    pid = int((system2.stack.run_dir.root / "pids" / "api.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(cleaning, return_exceptions=True)

    async def finished():
        try:
            run = await system2.get(f"{runs}/{identifier}")
        except (OSError, aiohttp.ClientError):
            return None
        return run if run["state"] == "finished" else None

    run = await wait_until(finished, 60, interval=0.2, what="somebody finishes the run")
    assert run["target_reached"]
    assert {item["state"] for item in run["items"]} <= {"deleted", "skipped"}
    deleted = [item for item in run["items"] if item["state"] == "deleted"]
    assert len({item["digest"] for item in deleted}) == len(deleted)
    await system2.settled()
    assert await system2.usage(name) == before - run["freed_bytes"]
    listed = {tag async for tag in system2.registry.list_tags(f"{name}/api")}
    assert listed == {tag for item in await system2.images(name) for tag in item["tags"]}
    assert len(listed) == IMAGES - len(deleted)
