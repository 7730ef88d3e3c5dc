"""`registry-quota plan` and `cleanup` beside a real API and registry."""

import json
import uuid

from registry.names import parse_digest
from registry.push import build_image, build_layer, push_image
from runtime.postgres import open_pool
from tests.support.live_api import OPERATOR, live_api
from tests.support.slow_registry import slow_deletes


async def workspace_with(system, command, *, images, quota_bytes, **policy):
    """A workspace of one app with some images of 50 kB; its name."""
    name = f"cli-{uuid.uuid4().hex[:8]}"
    for number in range(images):
        image = build_image([build_layer(f"{name}/{number}", 50_000)])
        await push_image(system.registry, f"{name}/api", image, f"1.{number}")
    await system.settled()
    status, answer = await system.call(
        "PATCH", f"/v1/workspaces/{name}", {"quota_bytes": quota_bytes, "policy": policy}
    )
    assert status == 200, answer
    return name


async def test_a_plan_shows_what_the_cleanup_then_does(system, command):
    name = await workspace_with(system, command, images=7, quota_bytes=400_000)

    planned = await command("plan", name, "--json")
    assert planned.code == 0, planned
    going = [item for item in json.loads(planned.out)["images"] if item["action"] == "delete"]
    assert [item["tags"] for item in going] == [["1.0"], ["1.1"]]

    dry = await command("cleanup", name, "--dry-run")
    assert dry.code == 0
    assert "2 of 7 manifests would go" in dry.out
    assert len(await system.images(name)) == 7

    cleaned = await command("cleanup", name, "--json")
    assert cleaned.code == 0, cleaned
    outcome = json.loads(cleaned.out)
    assert [image["digest"] for image in outcome["images"]] == [item["digest"] for item in going]
    assert outcome["freed_bytes"] == json.loads(planned.out)["freed_bytes"]
    assert await system.usage(name) == json.loads(planned.out)["usage_after_bytes"]
    for item in going:
        head = await system.registry.head_manifest(f"{name}/api", parse_digest(item["digest"]))
        assert not head.exists

    again = await command("cleanup", name)
    assert again.code == 0
    assert "nothing to do" in again.out


async def test_a_shown_plan_is_carried_out_refused_when_used_up_and_undone(system, command):
    name = await workspace_with(system, command, images=7, quota_bytes=400_000)
    before = await system.usage(name)
    plan = json.loads((await command("plan", name, "--json")).out)
    cleaned = await command("cleanup", name, "--plan", plan["id"], "--json")
    assert cleaned.code == 0, cleaned
    outcome = json.loads(cleaned.out)
    assert outcome["freed_bytes"] == plan["freed_bytes"] > 0

    again = await command("cleanup", name, "--plan", plan["id"])
    assert again.code == 3, again
    assert outcome["run_id"] in again.err

    undone = await command("restore", outcome["run_id"])
    assert undone.code == 0, undone
    assert f"{len(outcome['images'])} put back" in undone.out
    await system.settled()
    assert await system.usage(name) == before
    one = await command("restore", f"{name}/api:1.0", "--json")
    assert (one.code, json.loads(one.out)["present"]) == (0, 1)
    lost = await command("restore", f"{name}/api:9.9")
    assert lost.code == 1
    assert "no such image" in lost.err


async def test_on_a_terminal_it_shows_what_goes_and_deletes_only_what_was_agreed_to(
    system, command, on_a_terminal
):
    name = await workspace_with(system, command, images=7, quota_bytes=400_000)
    kept = await on_a_terminal("cleanup", name, answer="n")
    assert kept.code == 1, kept.out
    assert "nothing was deleted" in kept.out
    for shown in (f"{name}/api:1.0", f"{name}/api:1.1", "never seen", " ago", "49.5 KB"):
        assert shown in kept.out, kept.out
    assert "What is in use is not known here" in kept.out
    assert "Delete 2 images? [y/N]" in kept.out
    assert len(await system.images(name)) == 7

    lease = {"source": "k8s-prod", "digests": [], "ttl_s": 60}
    await system.call("POST", f"/v1/workspaces/{name}/leases", lease)
    agreed = await on_a_terminal("cleanup", name, answer="y")
    assert agreed.code == 0, agreed.out
    assert "None of them is in use by what k8s-prod last reported." in agreed.out
    assert sorted(image["tags"][0] for image in await system.images(name)) == [
        f"1.{number}" for number in range(2, 7)
    ]
    _status, runs = await system.call("GET", f"/v1/workspaces/{name}/cleanups")
    assert [run["cause"] for run in runs["items"]] == ["plan"]
    # It falls silent, which doctor would tell of.
    await system.call("DELETE", f"/v1/workspaces/{name}/leases/k8s-prod")


async def test_with_yes_a_program_is_not_asked_and_gets_the_plan_that_was_made(system, command):
    name = await workspace_with(system, command, images=7, quota_bytes=400_000)
    ran = await command("cleanup", name, "--yes", "--json")
    assert ran.code == 0, ran
    assert len(json.loads(ran.out)["images"]) == 2
    _status, runs = await system.call("GET", f"/v1/workspaces/{name}/cleanups")
    assert [run["plan_id"] is not None for run in runs["items"]] == [True]
    again = await command("cleanup", name, "-y")
    assert again.code == 0
    assert "nothing to do" in again.out


async def test_a_long_cleanup_is_waited_for_when_that_is_wanted(system, command):
    name = await workspace_with(system, command, images=12, quota_bytes=700_000)
    pool = await open_pool(system.environment["RQ_DATABASE_URL"], size=4, name="test")
    try:
        async with (
            slow_deletes(system.environment["RQ_REGISTRY_URL"], 0.4) as slow,
            live_api(pool, slow) as api,
        ):
            there = {"RQ_API_URL": api.base, "RQ_API_TOKEN": OPERATOR}
            ran = await command("cleanup", name, "--timeout", "1", "--wait", "--json", **there)
    finally:
        await pool.close()
    assert ran.code == 0, ran
    outcome = json.loads(ran.out)
    assert (outcome["done"], outcome["target_reached"], outcome["failed"]) == (True, True, [])
    assert len(outcome["images"]) == 12 - len(await system.images(name)) > 2


async def test_a_breaker_refuses_with_exit_code_3_and_says_why(system, command):
    name = await workspace_with(
        system, command, images=5, quota_bytes=200_000, max_images_per_run=1
    )
    for arguments in (
        ("plan", name),
        ("cleanup", name),
        ("cleanup", name, "--dry-run"),
        ("cleanup", name, "--yes"),
    ):
        ran = await command(*arguments)
        assert ran.code == 3, ran
        assert "max_images_per_run" in ran.out
    assert len(await system.images(name)) == 5


async def test_an_unknown_workspace_is_one_sentence_and_exit_code_1(command):
    for arguments in (("plan", "nobody"), ("cleanup", "nobody")):
        ran = await command(*arguments)
        assert ran.code == 1
        assert "no workspace 'nobody'" in ran.err
        assert "Traceback" not in ran.err


async def test_what_is_not_a_command_line_is_exit_code_2(command):
    assert (await command("cleanup")).code == 2
    assert (await command("cleanup", "x", "--timeout", "0")).code == 2
