"""`registry-quota tokens`: made, listed, revoked, as a person does it."""

import json


async def test_a_token_is_printed_alone_works_and_ends_with_its_revocation(system, command):
    ran = await command(
        *("tokens", "create", "--scope", "read,hook", "--scope", "write"),
        *("--workspace", "cli-tokens", "--name", "ci", "--expires", "90d"),
    )
    assert ran.code == 0, ran
    token = ran.out.strip()
    assert "cannot be shown again" in ran.err
    assert (await system.call("GET", "/v1/workspaces", token=token))[0] == 200

    listed = await command("tokens", "list", "--json")
    item = next(item for item in json.loads(listed.out) if item["id"] == token.split("_")[1])
    assert (item["name"], item["scopes"]) == ("ci", ["read", "hook", "write"])
    assert item["workspaces"] == ["cli-tokens"]
    assert item["last_used_at"] is not None
    assert token.split("_")[2] not in listed.out
    assert (await command("tokens", "list")).code == 0

    assert (await command("tokens", "revoke", item["id"])).code == 0
    assert (await system.call("GET", "/v1/workspaces", token=token))[0] == 401
    again = await command("tokens", "revoke", "nonsense")
    assert again.code == 1
    assert "no such token" in again.err


async def test_a_token_for_everything_is_made_only_on_purpose(command):
    ran = await command("tokens", "create", "--scope", "read")
    assert ran.code == 2
    assert "--all-workspaces" in ran.err
    ran = await command("tokens", "create", "--scope", "read", "--all-workspaces", "--json")
    assert ran.code == 0, ran
    assert json.loads(ran.out)["workspaces"] is None
    assert (
        await command("tokens", "create", "--scope", "read", "--workspace", "a", "--ttl", "soon")
    ).code == 2
