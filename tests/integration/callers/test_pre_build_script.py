"""The callers that are ready to take: what they say, and that only a denial stops a build."""

import asyncio
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from runtime.http import serving
from runtime.settings import Settings
from runtime.tls import door_certificate
from tests.support.certificates import Authority
from tests.support.live_api import OPERATOR, live_api

CALLERS = Path(__file__).parents[3] / "callers"
SCRIPT = CALLERS / "shell" / "pre-build.sh"
GIGABYTE = 1024**3


async def run(api_url: str, shell: str = "sh", script: Path = SCRIPT, **settings: Any):
    """(exit code, what it printed)"""
    environment = {
        "PATH": os.environ["PATH"],
        "RQ_API_URL": api_url,
        "RQ_API_TOKEN": OPERATOR,
        "RQ_WORKSPACE": "acme",
    } | settings
    process = await asyncio.create_subprocess_exec(
        shell,
        str(script),
        env={name: value for name, value in environment.items() if value is not None},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode()


async def test_the_script_says_what_was_decided_and_goes_on(api, tmp_path):
    await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": GIGABYTE})
    outputs = tmp_path / "outputs"
    code, said = await run(
        api.base,
        RQ_APP='we"ird\\app',
        RQ_BUILD_ID="ci-1",
        RQ_INCOMING_BYTES="1048576",
        GITHUB_OUTPUT=str(outputs),
    )
    assert code == 0
    decided, message = said.splitlines()
    assert decided == "registry-quota: proceed (below_threshold)"
    assert message.startswith("registry-quota: Workspace acme: 0 B stored + 0 B reserved + 1.0 MB")
    assert outputs.read_text() == "decision=proceed\nreason=below_threshold\n"
    _status, reserved = await api.call("GET", "/v1/workspaces/acme/reservations")
    assert [item["app"] for item in reserved["items"]] == ['we"ird\\app']


async def test_zeros_in_front_of_a_size_are_no_reason_not_to_check(api):
    for padded in ("0001048576", "000"):
        code, said = await run(api.base, RQ_INCOMING_BYTES=padded)
        assert code == 0
        assert said.startswith("registry-quota: proceed (below_threshold)"), said


async def test_an_api_by_tls_is_asked_when_its_authority_is_named_and_never_without(pool, tmp_path):
    authority = Authority(tmp_path)
    pair = authority.issue()
    certificate = door_certificate(Settings(tls_cert=str(pair.certificate), tls_key=str(pair.key)))
    async with live_api(pool, certificate=certificate) as api:
        code, said = await run(api.base, RQ_CA_FILE=str(authority.file))
        assert (code, said.splitlines()[0]) == (0, "registry-quota: proceed (below_threshold)")
        code, said = await run(api.base)
        assert code == 0
        assert "the quota was not checked, the build goes on: curl:" in said
        assert "certificate" in said


async def test_a_denial_alone_stops_the_build(api):
    await api.call(
        "PATCH", "/v1/workspaces/acme", {"quota_bytes": GIGABYTE, "enforcement": "strict"}
    )
    code, said = await run(api.base, RQ_INCOMING_BYTES=str(2 * GIGABYTE))
    assert code == 1
    assert "registry-quota: deny (over_quota)" in said
    assert "The build is denied." in said


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"RQ_API_TOKEN": "wrong"}, "the API answered 401: this token is not known"),
    ({"RQ_API_TOKEN": None}, "RQ_API_TOKEN is not set"),
    ({"RQ_API_URL": ""}, "RQ_API_URL is not set"),
    ({"RQ_WORKSPACE": ""}, "RQ_WORKSPACE is not set"),
    ({"RQ_WORKSPACE": "x" * 300}, "the API answered 400: workspace: "),
    ({"RQ_INCOMING_BYTES": "12MB"}, "RQ_INCOMING_BYTES must be a number"),
    ({"RQ_INCOMING_BYTES": "9" * 30}, "the API answered 400: incoming_bytes: "),
    ({"RQ_TIMEOUT": "soon"}, "RQ_TIMEOUT must be whole seconds"),
    ({"RQ_API_URL": "http://127.0.0.1:9"}, "curl: (7)"),
    ({"RQ_API_URL": "nonsense://x"}, "curl: (1)"),
    ({"PATH": "/nonexistent"}, "is not installed here"),
]


async def test_whatever_is_wrong_is_said_and_stops_no_build(api):
    shell = shutil.which("sh")
    assert shell is not None
    for settings, expected in WRONG:
        code, said = await run(api.base, shell, **settings)
        assert code == 0, (settings, said)
        assert f"the quota was not checked, the build goes on: {expected}" in said or (
            expected in said and "the build goes on" in said
        ), (settings, said)
    code, said = await run("http://127.0.0.1:9", GITHUB_ACTIONS="true")
    assert said.startswith("::warning title=registry-quota::")


async def test_servers_that_fail_or_hang_stop_no_build():
    async def hang(_request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async def fail(_request: web.Request) -> web.Response:
        return web.Response(status=500, text="<html>boom</html>")

    async def other(_request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>")

    app = web.Application()
    for name, handler in (("hang", hang), ("fail", fail), ("other", other)):
        app.router.add_post(f"/{name}/v1/hooks/pre-build", handler)
    async with serving(app, host="127.0.0.1", port=0, drain_seconds=0.1) as port:
        base = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        (code, said), failed, strange = await asyncio.gather(
            run(f"{base}/hang", RQ_TIMEOUT="1"), run(f"{base}/fail"), run(f"{base}/other")
        )
        assert time.monotonic() - began < 8
    assert (code, "curl: (28)" in said) == (0, True), said
    assert failed == (
        0,
        "registry-quota: the quota was not checked, the build goes on: the API answered 500\n",
    )
    assert strange[0] == 0
    assert "something other than registry-quota answers" in strange[1]


def test_the_token_is_no_argument_of_a_program():
    assert "RQ_API_TOKEN" not in re.sub(
        r"printf 'header.*RQ_API_TOKEN\" \|", "", SCRIPT.read_text().split("command -v curl")[1]
    )


@pytest.mark.parametrize("shell", ["dash", "bash"])
async def test_the_script_is_plain_posix_shell(api, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    code, said = await run(api.base, shell)
    assert (code, "proceed" in said) == (0, True), said


# -- GitHub and GitLab -------------------------------------------------------------------------------


def read(path: str) -> Any:
    return yaml.safe_load((CALLERS / path).read_text())


async def test_the_github_action_runs_the_script_with_its_inputs(api, tmp_path):
    action = read("github/action.yml")
    assert action["runs"]["using"] == "composite"
    (step,) = action["runs"]["steps"]
    named = set(re.findall(r"inputs\.([a-z-]+)", str(action["runs"])))
    assert named == action["inputs"].keys()
    given = {"api-url": api.base, "api-token": OPERATOR, "workspace": "acme", "build-id": "1-1"}

    def filled(text: str) -> str:
        found = re.fullmatch(r"\$\{\{ inputs\.([a-z-]+)(?: \|\| format\(.+\))? \}\}", text)
        assert found is not None, text
        return str(given.get(found[1], action["inputs"][found[1]].get("default", "")))

    environment = {name: filled(text) for name, text in step["env"].items()}
    script = tmp_path / "step.sh"
    script.write_text(step["run"])
    code, said = await run(
        environment.pop("RQ_API_URL"),
        step["shell"],
        script,
        **environment,
        GITHUB_ACTION_PATH=str(CALLERS / "github"),
        GITHUB_OUTPUT=str(tmp_path / "outputs"),
    )
    assert (code, "proceed (below_threshold)" in said) == (0, True), said
    outputs = (tmp_path / "outputs").read_text()
    for name, output in action["outputs"].items():
        assert output["value"] == f"${{{{ steps.{step['id']}.outputs.{name} }}}}"
        assert f"{name}=" in outputs


def test_each_app_of_a_run_has_a_build_id_of_its_own():
    (step,) = read("github/action.yml")["runs"]["steps"]
    assert step["env"]["RQ_BUILD_ID"] == (
        "${{ inputs.build-id || "
        "format('{0}-{1}-{2}', github.run_id, github.run_attempt, inputs.app) }}"
    )
    job = read("gitlab/pre-build.yml")[".registry-quota-pre-build"]
    assert job["variables"]["RQ_BUILD_ID"] == "$CI_PIPELINE_ID-$RQ_APP"


def test_the_gitlab_template_has_the_script_word_for_word():
    job = read("gitlab/pre-build.yml")[".registry-quota-pre-build"]
    assert job["script"] == [SCRIPT.read_text()]
    assert {"RQ_WORKSPACE", "RQ_APP", "RQ_BUILD_ID"} <= job["variables"].keys()
    assert job["stage"] == ".pre"
