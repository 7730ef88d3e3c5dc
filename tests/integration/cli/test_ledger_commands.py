"""`verify`, `replay` and `workspaces map` beside a running system, as a person calls them."""

import json
import uuid

from tests.support.consumers import event


async def pushed(system, workspace, *apps):
    events = [event(f"{workspace}/{app}") for app in apps]
    await system.notify_all([json.dumps({"events": [item]}).encode() for item in events])
    await system.settled()


async def test_verify_says_zero_for_one_and_for_all_workspaces(system, command):
    workspace = f"v{uuid.uuid4().hex[:8]}"
    await pushed(system, workspace, "api")
    ran = await command("verify")
    assert (ran.code, ran.err) == (0, ""), ran
    assert ran.out.startswith("drift 0 bytes")
    ran = await command("verify", "--workspace", workspace, "--json")
    (document,) = json.loads(ran.out)
    assert (document["drift_bytes"], document["recounted_bytes"], document["wrong"]) == (
        0,
        5100,
        [],
    )
    ran = await command("verify", "--workspace", "nobody-has-this-name")
    assert (ran.code, "there is no workspace" in ran.err) == (1, True)


async def test_a_repository_is_mapped_and_its_bytes_go_with_it(system, command):
    workspace = f"m{uuid.uuid4().hex[:8]}"
    await pushed(system, workspace, "api", "web")
    ran = await command("workspaces", "map", f"{workspace}/web", f"{workspace}-new", "site")
    assert ran.code == 0, ran
    assert "1 manifest moved" in ran.out
    assert await system.usage(workspace) == await system.usage(f"{workspace}-new") == 5100
    (image,) = await system.images(f"{workspace}-new")
    assert (image["repository"], image["app"]) == (f"{workspace}/web", "site")
    status, document = await system.call(
        "PUT", "/v1/repositories/default/Not%20A%20Name", {"workspace": "x"}
    )
    assert (status, "grammar" in document["detail"]) == (404, True)
    assert (await command("verify")).code == 0


async def test_replay_compares_and_swaps_beside_the_running_system(system, command):
    workspace = f"r{uuid.uuid4().hex[:8]}"
    await pushed(system, workspace, "api")
    ran = await command("replay", "--diff")
    assert ran.code == 0, ran
    assert "0 differences" in ran.out
    ran = await command("replay", "--swap", "--json")
    assert ran.code == 0, ran
    assert json.loads(ran.out)["workspaces_changed"] == 0
    await pushed(system, workspace, "web")
    assert await system.usage(workspace) == 2 * 5100
    assert (await command("verify")).code == 0
    assert (await command("replay", "--diff", "--swap")).code == 2


async def test_a_name_that_nobody_knows_is_never_met_with_silence(system, command):
    """Whatever a command takes a name for: a mistake ends with near names, not with an empty list."""
    workspace = f"n{uuid.uuid4().hex[:8]}"
    await pushed(system, workspace, "api")
    near = f"did you mean {workspace}"
    typo = f"{workspace}x"
    for arguments, code in (
        (("reconcile", "--workspace", typo), 1),
        (("verify", "--workspace", typo), 1),
        (("gc", "verify", "--workspace", typo), 1),
        (("images", typo), 1),
        (("images", workspace, "--app", "apii"), 0),
        (("images", workspace, "--tag", "unlike-all-tags"), 0),
        (("images", "date", workspace, f"{workspace}/apii:1", "--to", "2025-01-01"), 1),
        (("images", "date", workspace, "--all-unknown", "--app", "apii", "--to", "2025-01-01"), 0),
        (("restore", f"{workspace}/apii:1"), 1),
        (("dead-letters", "list", "--workspace", typo), 0),
        (("dead-letters", "drop", "--all", "--workspace", typo), 0),
        (("leases", "list", typo), 0),
    ):
        ran = await command(*arguments)
        assert ran.code == code, (arguments, ran)
        assert "unknown" in ran.err or "there is no workspace" in ran.err, (arguments, ran)
        wanted = near if typo in arguments else "did you mean"
        assert wanted in ran.err or "unlike-all-tags" in arguments, (arguments, ran)
        assert "equals" not in ran.out + ran.err
