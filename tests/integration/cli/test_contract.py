"""What holds for every command: one JSON document, tables that a pipe can read, errors that help."""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.consumers import event


@pytest.fixture
async def workspace(system):
    """A workspace with one image."""
    name = f"contract-{uuid.uuid4().hex[:8]}"
    await system.notify_all([json.dumps({"events": [event(f"{name}/api")]}).encode()])
    await system.settled()
    return name


async def test_for_programs_every_answer_is_one_document_and_nothing_else(command, workspace):
    for arguments in (
        ("workspaces", "list"),
        ("workspaces", "show", workspace),
        ("workspaces", "set", workspace, "--quota", "1GB", "--enforcement", "strict"),
        ("images", workspace),
        ("plan", workspace),
        ("cleanup", workspace),
        ("leases", "list", workspace),
        ("leases", "put", workspace, "--source", "k", "--empty"),
        ("leases", "retire", workspace, "k"),
        ("tokens", "list"),
        ("dead-letters", "list"),
        ("status",),
        ("verify", "--workspace", workspace),
        ("version",),
    ):
        ran = await command(*arguments, "--json")
        assert ran.code == 0 or arguments == ("status",), (arguments, ran)
        json.loads(ran.out)
        assert ran.err == "", (arguments, ran)


async def test_in_a_pipe_a_table_is_a_line_a_row(command, workspace):
    ran = await command("images", workspace)
    header, row = ran.out.splitlines()
    assert header.split() == [
        "repository",
        "tags",
        "kind",
        "digest",
        "size",
        "unique",
        "pushed",
        "(UTC)",
    ]
    assert row.startswith(f"{workspace}/api  ")
    assert "\x1b" not in ran.out


async def test_settings_of_a_workspace_are_set_rule_by_rule(command, workspace):
    rules = ("--policy", "keep_newest=5", "--policy", "keep_tags=v*,stable")
    ran = await command("workspaces", "set", workspace, "--quota", "20GB", *rules, "--json")
    assert ran.code == 0, ran
    policy = json.loads(ran.out)["policy"]
    assert (policy["keep_newest"], policy["keep_tags"]) == (5, ["v*", "stable"])
    ran = await command("workspaces", "set", workspace, "--policy", "keep_tags=", "--json")
    policy = json.loads(ran.out)["policy"]
    assert (policy["keep_newest"], policy["keep_tags"]) == (5, [])
    wrong = await command("workspaces", "set", workspace, "--policy", "keep_newst=5")
    assert wrong.code == 1
    assert "policy.keep_newst: there is no such field; there are trigger" in wrong.err
    new = f"{workspace}-new"
    assert (await command("workspaces", "set", new, "--policy", "min_age=3d")).code == 0


@pytest.mark.parametrize("what", ["show", "images", "plan", "restore", "verify"])
async def test_an_unknown_workspace_comes_with_those_that_have_a_near_name(
    command, workspace, what
):
    wrong = workspace + "x"
    arguments = {
        "show": ("workspaces", "show", wrong),
        "restore": ("restore", "1.0", "--workspace", wrong),
        "verify": ("verify", "--workspace", wrong),
    }.get(what, (what, wrong))
    ran = await command(*arguments)
    assert ran.code == 1
    assert f"there is no workspace '{wrong}'" in ran.err
    assert "did you mean" in ran.err
    assert workspace in ran.err.replace(wrong, "")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (
            {"RQ_API_URL": "http://127.0.0.1:1"},
            ("http://127.0.0.1:1 does not answer", "RQ_API_URL"),
        ),
        ({"RQ_API_URL": "127.0.0.1:1"}, ("does not answer", "serve api")),
        ({"RQ_API_TOKEN": "wrong"}, ("token is not known", "set RQ_API_TOKEN")),
        ({"RQ_RUN_DIR": "/nowhere"}, ("RQ_API_TOKEN is not set", "make run")),
    ],
)
async def test_a_door_that_does_not_open_is_one_sentence_that_says_what_to_do(
    command, environment, told
):
    ran = await command("workspaces", "list", "--json", **environment)
    assert (ran.code, ran.out) == (1, "")
    assert len(ran.err.splitlines()) == 1
    for text in told:
        assert text in ran.err


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [(("migrate",), "database"), (("migrate",), "user"), (("serve", "consumer"), "user")],
)
async def test_a_database_that_refuses_us_is_one_sentence_that_names_the_setting(
    command, system, arguments, wrong
):
    good = urlsplit(system.environment["RQ_DATABASE_URL"])
    bad = good._replace(netloc=f"nobody:wrong@{good.netloc.rpartition('@')[2]}")
    if wrong == "database":
        bad = good._replace(path="/not_there")
    ran = await command(*arguments, RQ_DATABASE_URL=bad.geturl())
    assert ran.code == 1
    assert "Traceback" not in ran.err
    told = ran.err.splitlines()[-1]
    assert "Postgres refuses" in told
    assert "RQ_DATABASE_URL" in told


async def test_another_servers_address_is_told_apart_from_the_api(system, command):
    ran = await command("workspaces", "list", RQ_API_URL=system.environment["RQ_REGISTRY_URL"])
    assert ran.code == 1
    assert "something other than the API answers" in ran.err
    assert "check RQ_API_URL" in ran.err


async def test_a_token_without_the_scope_is_told_which_it_lacks(command, workspace):
    made = await command("tokens", "create", "--scope", "hook", "--workspace", workspace)
    ran = await command("images", workspace, RQ_API_TOKEN=made.out.strip())
    assert ran.code == 1
    assert "lacks the scope `read`; set RQ_API_TOKEN to one that has it" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [("version",), ("workspaces", "list"), ("leases", "put"), ("status", "--help"), ("nonsense",)],
    ids=" ".join,
)
async def test_the_installed_program_is_what_these_tests_start(command, system, arguments):
    """They fork it where its libraries are loaded already (tests/support/commands.py)."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "registry-quota",
        *arguments,
        env={k: v for k, v in os.environ.items() if not k.startswith(("RQ_", "ORBIT_"))}
        | {"RQ_RUN_DIR": str(system.stack.run_dir.root)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    forked = await command(*arguments)
    assert (forked.code, forked.out, forked.err) == (process.returncode, out.decode(), err.decode())
