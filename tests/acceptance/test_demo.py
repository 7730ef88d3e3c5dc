"""`registry-quota demo` as a person runs it."""

import asyncio
import dataclasses
import os
import re
import shlex
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devstack.config import Ports
from devstack.ports import free_port
from devstack.rundir import RunDir
from tests.support.pages import ROOT, block

pytestmark = pytest.mark.slow

KEPT = (
    "cleanup did what its plan said",
    "deleted manifests answer 404",
    "surviving tags were pulled, by tag and by digest",
    "tags are the registry's, digest for digest",
    "manifests are the registry's",
    "a recount from the registry finds the ledger's usage",
    "was announced on Kafka",
    "the level's changes were announced: ok → warning → ok",
    "cleanup.finished was announced with the run's figures",
)


@asynccontextmanager
async def demo(
    run_dir: Path,
    *,
    command: Sequence[str] = (sys.executable, "-m", "cli.main", "demo"),
    **environment: str,
) -> AsyncIterator[Process]:
    """The command as a process of its own, its output in a pipe."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **environment, "RQ_RUN_DIR": str(run_dir)},
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        async with asyncio.timeout(150):
            yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def free_ports() -> dict[str, str]:
    return {
        f"RQ_{field.name.upper()}_PORT": str(free_port()) for field in dataclasses.fields(Ports)
    }


def assert_all_of_it_held(output: str, exit_code: int | None) -> None:
    for promise in KEPT:
        assert re.search(rf"✓ .*{re.escape(promise)}", output), output
    assert "✗" not in output
    assert "note:" not in output, "it waits for names that are not known yet: no reader's mistake"
    assert "\x1b" not in output, "a log has no use for a terminal's tricks"
    assert re.search(r"event \S+ \S+ demo\S* usage.level_changed: ok → warning", output)
    assert "All of it held." in output
    assert exit_code == 0, output


def assert_nothing_is_left(run_dir: Path) -> None:
    assert list(run_dir.glob("pids/*.pid")) == []
    assert not RunDir(run_dir).is_locked()


async def test_it_starts_and_stops_a_stack_of_its_own(tmp_path):
    """As docs/getting-started.md says it."""
    said_so = shlex.split(
        block("docs/getting-started.md", "tried by tests/acceptance/test_demo.py")
    )
    assert said_so == ["make", "demo"]
    async with demo(tmp_path / "run", command=said_so, **free_ports()) as process:
        said, _ = await process.communicate()
    assert_all_of_it_held(said.decode(), process.returncode)
    assert_nothing_is_left(tmp_path / "run")


@pytest.mark.parametrize("path", [None, ""], ids=["client from the PATH", "own push"])
async def test_beside_a_running_stack_it_uses_that_one(system, path):
    run_dir = system.stack.run_dir.root
    async with demo(run_dir, **({} if path is None else {"PATH": path})) as process:
        said, _ = await process.communicate()
    output = said.decode()
    assert_all_of_it_held(output, process.returncode)
    assert f"using the stack that runs in {run_dir}" in output
    assert ("our own push" in output) == (shutil.which("skopeo", path=path) is None)
    assert "A fresh workspace, demo, with" in output
    assert (await system.get("/v1/workspaces/demo/usage"))["level"] == "ok"
    assert (
        f"{system.environment['RQ_API_URL']}/workspaces/demo in a browser, signed in with" in output
    )
    assert "Ctrl-C in the terminal of `make run` stops everything." in output


async def test_a_demo_begins_with_an_empty_workspace_whatever_was_done_to_it(system):
    run_dir = system.stack.run_dir.root
    path = "/v1/workspaces/demo"
    settings = {"quota_bytes": 1000, "enforcement": "strict", "policy": {"keep_tags": ["*"]}}
    await system.call("PATCH", path, settings)
    await system.call("POST", f"{path}/leases", {"source": "k8s", "digests": [], "ttl_s": 60})
    await system.call("POST", f"{path}/reservations", {"build_id": "ci-1", "bytes": 5})
    async with demo(run_dir) as process:
        said, _ = await process.communicate()
    assert_all_of_it_held(said.decode(), process.returncode)
    assert (await system.get(path))["enforcement"] == "advisory"


async def test_the_commands_of_the_readme_work_after_it_as_they_stand(system):
    if (await system.call("GET", "/v1/workspaces/demo"))[0] == 404:
        async with demo(system.stack.run_dir.root) as process:
            await process.communicate()
    lines = block("README.md", "tried by tests/acceptance/test_demo.py").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    outputs: dict[str, str] = {}
    assert commands.pop(0) == [".", ".venv/bin/activate"]
    assert all(command[0] == "registry-quota" for command in commands)
    for command in commands:
        endless = "tail" in command
        if "--install-completion" in command:
            continue
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", *command[1:]),
            cwd=ROOT,
            env={**os.environ, "RQ_RUN_DIR": str(system.stack.run_dir.root)},
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            if endless:
                assert process.stdout is not None
                assert await asyncio.wait_for(process.stdout.readline(), 60), command
                process.send_signal(signal.SIGINT)
            said, _ = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
        assert endless or process.returncode == 0, (command, said.decode())
        outputs[command[1]] = said.decode()
    # Each has something to show: what was put back is above the target again.
    assert "1 put back" in outputs["restore"]
    assert "delete" in outputs["plan"]
    assert "target reached" in outputs["cleanup"]


async def test_ctrl_c_ends_its_own_stack(tmp_path):
    async with demo(tmp_path / "run", **free_ports()) as process:
        assert process.stdout is not None
        said = ""
        async for line in process.stdout:
            said += line.decode()
            if "api:1.0" in said:
                break
        assert "api:1.0" in said, said
        process.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 130, said + rest.decode()
    assert_nothing_is_left(tmp_path / "run")
