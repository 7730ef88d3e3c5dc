"""What real processes log: a line an outcome, with its fields, harmless, and without a secret."""

import json
import re
import uuid
from typing import Any

import aiohttp

from registry.names import format_digest
from registry.push import build_image, build_layer, push_image
from tests.acceptance.test_main_job import accounted, set_up
from tests.support.deliveries import envelope, event
from tests.support.system import System
from tests.support.waiting import wait_until

OURS = ("receiver", "consumer", "api")


def lines(system: System, process: str) -> list[dict[str, Any]]:
    """Everything that a process has logged."""
    text = (system.stack.run_dir.log(process)).read_text()
    found = []
    for line in text.splitlines():
        assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e]", line), line
        found.append(json.loads(line))
    return found


async def told(system: System, process: str, name: str, **about: Any) -> list[dict[str, Any]]:
    """The lines of an event with these fields, once there is one."""

    def found() -> list[dict[str, Any]]:
        return [
            line
            for line in lines(system, process)
            if line["event"] == name and about.items() <= line.items()
        ]

    return await wait_until(found, 20, interval=0.1, what=f"{name} in {process}'s log")


async def test_a_push_a_build_and_a_cleanup_have_a_line_for_each_outcome(system2: System):
    workspace = await set_up(system2, 1_000_000, untagged_grace=0)
    digests = []
    for number in range(8):
        image = build_image([build_layer(uuid.uuid4().hex, 100_000)])
        await push_image(system2.registry, f"{workspace}/api", image, f"v{number}")
        digests.append(format_digest(image.digest))
    await accounted(system2, workspace, images=8)
    for digest in digests:
        about = {"workspace": workspace, "digest": digest}
        (line,) = await told(system2, "consumer", "notification", action="push", **about)
        assert (line["result"], line["repository"]) == ("recorded", f"{workspace}/api")
        assert line["event_id"]
        recorded = "io.registryquota.image.recorded.v1"
        assert len(await told(system2, "api", "quota_event", type=recorded, **about)) == 1

    build = {"workspace": workspace, "build_id": "ci-1", "incoming_bytes": 100_000}
    status, answer = await system2.call("POST", "/v1/hooks/pre-build", build)
    assert status == 200
    (decided,) = await told(system2, "api", "pre_build", workspace=workspace)
    assert decided["decision"] == "proceed"
    assert (decided["build_id"], decided["deleted"]) == ("ci-1", len(answer["cleanup"]["images"]))
    deleted = await told(system2, "api", "image_deleted", workspace=workspace)
    assert [(line["digest"], line["freed_bytes"], line["tags"]) for line in deleted] == [
        (image["digest"], image["freed_bytes"], image["tags"])
        for image in answer["cleanup"]["images"]
    ]
    (finished,) = await told(system2, "api", "cleanup_finished", workspace=workspace)
    assert finished["run"] == answer["cleanup"]["run_id"]
    assert finished["freed_bytes"] == answer["cleanup"]["freed_bytes"]

    body = {"run": answer["cleanup"]["run_id"]}
    status, _ = await system2.call("POST", f"/v1/workspaces/{workspace}/restores", body)
    assert status == 200
    restored = await told(system2, "api", "image_restored", workspace=workspace)
    assert {line["digest"] for line in restored} == {line["digest"] for line in deleted}
    assert len(restored) == len(deleted)


async def test_who_is_refused_has_a_line_without_what_they_tried(system2: System):
    tried = f"guess-{uuid.uuid4().hex}"
    assert (await system2.call("GET", "/v1/workspaces", token=tried))[0] == 401
    assert await system2.notify(envelope(event()), token=tried) == 401
    for process, door in (("api", "api"), ("receiver", "receiver")):
        (line, *_) = await told(system2, process, "token_refused", door=door)
        assert line["times"] >= 1
    for process in OURS:
        assert tried not in json.dumps(lines(system2, process))


async def test_text_of_strangers_is_harmless_in_every_log_and_no_secret_is_in_any(system2: System):
    workspace = f"w{uuid.uuid4().hex[:8]}"
    # `lines` refuses a log in which anything of this is not escaped.
    hostile = 'x\n{"event": "fake"}\r\x1b[2J\x9b31m\u202e\u2028'
    for body in (
        envelope(event(f"{workspace}/web", action=hostile)),
        envelope(event(f"{workspace}/{hostile}")),
        hostile.encode(),
    ):
        assert await system2.notify(body) == 202
    address = system2.environment["RQ_API_URL"]
    async with aiohttp.ClientSession() as session:
        for path in ("/v1/workspaces/%1b%5b2J%0afake/usage", "/%e2%80%ae%c2%9b"):
            async with session.get(f"{address}{path}") as response:
                assert response.status in (401, 404)
    await told(system2, "receiver", "dead_letter", workspace=workspace)
    everything = [line for process in OURS for line in lines(system2, process)]
    assert all({"event", "level", "timestamp", "process"} <= line.keys() for line in everything)
    assert not [line for line in everything if line["event"] == "fake"]
    text = json.dumps(everything)
    for name in ("RQ_WEBHOOK_TOKEN", "RQ_API_TOKEN", "RQ_INTERNAL_API_KEY"):
        assert system2.environment[name] not in text
