"""The callers that are ready to take: what they say, and that only a denial stops a build."""

import asyncio
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from ledger.facts import ManifestPulled
from registry.client import RegistryClient
from registry.errors import RegistryError
from registry.push import build_image, build_index, build_layer
from runtime.http import serving
from runtime.settings import Settings
from runtime.tls import door_certificate
from tests.integration.quota.conftest import service_of, utc_now
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
    decided, message, unknown = said.splitlines()
    assert decided == "registry-quota: proceed (below_threshold)"
    assert unknown.startswith(
        'registry-quota: warning: unknown_app: we"ird\\app is unknown in acme'
    )
    assert message.startswith("registry-quota: Workspace acme: 0 B stored + 0 B reserved + 1 MB")
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


def shell_and_path(shell: str, folder: Path) -> tuple[str, str]:
    """A shell and where it finds its tools: busybox's own, as in the image `curlimages/curl`."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    if shell != "busybox":
        return found, os.environ["PATH"]
    for applet in ("sh", "awk", "grep", "sed", "tr", "head", "printf", "date", "sleep"):
        (folder / applet).symlink_to(found)
    curl = shutil.which("curl")
    assert curl is not None
    (folder / "curl").symlink_to(curl)
    return str(folder / "sh"), str(folder)


SHELLS = ["dash", "bash", "busybox"]


@pytest.mark.parametrize("shell", SHELLS)
async def test_the_script_is_plain_posix_shell(api, shell, tmp_path):
    program, path = shell_and_path(shell, tmp_path)
    code, said = await run(api.base, program, PATH=path)
    assert (code, "proceed" in said) == (0, True), said


# -- what it reads -----------------------------------------------------------------------------------


@asynccontextmanager
async def answered(document: Any) -> AsyncIterator[tuple[str, list[Any]]]:
    """(an API that says so, what it was asked)"""
    asked: list[Any] = []

    async def hook(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response(document, dumps=partial(json.dumps, ensure_ascii=False))

    app = web.Application()
    app.router.add_post("/v1/hooks/pre-build", hook)
    async with serving(app, host="127.0.0.1", port=0, drain_seconds=0.1) as port:
        yield f"http://127.0.0.1:{port}", asked


@pytest.mark.parametrize("shell", SHELLS)
async def test_what_a_real_cleanup_did_is_told_as_the_api_says_it(pool, backend, shell, tmp_path):
    """An index of two images goes, another image is pulled meanwhile, and a third cannot be deleted."""
    program, path = shell_and_path(shell, tmp_path)
    async with (
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as registry,
        RegistryClient(registry.url) as client,
    ):
        service = service_of(pool, client)
        rules = {
            "keep_newest": 1,
            "keep_at_least": 1,
            "keep_pulled_days": 7,
            "max_ratio_per_run": 1,
        }
        await service.configure("acme", 10**6, target=0.1, trigger=0.2, **rules)
        platforms = ("amd64", "arm64")
        images = {name: build_image([build_layer(f"{shell} {name}", 50_000)]) for name in platforms}
        index = build_index(images)
        await service.push_index("acme/api", "1.0", index)
        pulled = await service.push("acme/api", "1.1", 100_000)
        refused = await service.push("acme/api", "1.2", 100_000)
        await service.push("acme/api", "1.3", 100_000)
        delete = RegistryClient.delete_manifest
        meanwhile = [pulled]

        async def delete_and_pull(self, repository, digest):
            if digest == refused.digest:
                raise RegistryError('"reason": "storage {is} away", [really]')
            done = await delete(self, repository, digest)
            if meanwhile:
                stamp = (time.time_ns(), uuid.uuid4().bytes)
                fact = ManifestPulled("default", repository, meanwhile.pop().digest, stamp)
                await service.recorder.record([fact], now=utc_now())
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RegistryClient, "delete_manifest", delete_and_pull)
            async with live_api(pool, registry.url) as api:
                outputs = tmp_path / "outputs"
                code, said = await run(
                    api.base, program, PATH=path, RQ_APP="api", GITHUB_OUTPUT=str(outputs)
                )
    lines = [line.removeprefix("registry-quota: ") for line in said.splitlines()]
    assert code == 0
    assert lines[0] == "proceed (still_above_target)", said
    assert "1 manifest kept because pulled meanwhile" in lines[1], said
    assert "1 manifest that could not be deleted" in lines[1]
    assert lines[2:5] == [
        "cleanup deleted 1 image",
        "1 image kept because pulled meanwhile",
        "1 image could not be deleted",
    ], said
    assert outputs.read_text() == "decision=proceed\nreason=still_above_target\n"


@pytest.mark.parametrize("shell", SHELLS)
async def test_the_decisions_own_words_are_read_whatever_stands_elsewhere(shell, tmp_path):
    program, path = shell_and_path(shell, tmp_path)
    image = {
        "repository": "acme/api",
        "digest": "sha256:1",
        "tags": ["1"],
        "why": "x",
        "reason": "z",
    }
    document = {
        "cleanup": {
            "decision": "deny",
            "reason": "inner",
            "message": "inner",
            "images": [image] * 3,
        },
        "message": 'Ünder "reason": "quoted", {a} [b] \\ / c',
        "decision": "proceed",
        "reason": "cleaned_to_target",
        "reservation": {"reason": "last", "decision": "deny", "message": "last"},
        "warnings": ["one, two", "three"],
    }
    async with answered(document) as (base, _asked):
        code, said = await run(base, program, PATH=path)
    assert (code, said.splitlines()) == (
        0,
        [
            "registry-quota: proceed (cleaned_to_target)",
            'registry-quota: Ünder "reason": "quoted", {a} [b] \\ / c',
            "registry-quota: cleanup deleted 3 images",
            "registry-quota: warning: one, two",
            "registry-quota: warning: three",
        ],
    )


# -- names -------------------------------------------------------------------------------------------

PROCEED = {"decision": "proceed", "reason": "below_threshold", "message": "m"}

NAMES: list[tuple[dict[str, Any], tuple[str, str | None]]] = [
    ({"CI_REGISTRY_IMAGE": "reg.example.com:5005/acme/api"}, ("acme", "api")),
    ({"CI_REGISTRY_IMAGE": "Reg.example.com/ACME/Sub.Group/Api"}, ("acme", "sub.group/api")),
    (
        {"CI_REGISTRY": "registry/gitlab", "CI_REGISTRY_IMAGE": "registry/gitlab/acme/sub/api"},
        ("acme", "sub/api"),
    ),
    ({"CI_PROJECT_PATH": "Acme/Sub/Api"}, ("acme", "sub/api")),
    ({"CI_PROJECT_PATH": "my.group/Api"}, ("my.group", "api")),
    ({"GITHUB_REPOSITORY": "Octo-Org/Web"}, ("octo-org", "web")),
    ({"RQ_REPOSITORY": "Acme/api", "CI_REGISTRY_IMAGE": "r.example/x/y"}, ("acme", "api")),
    ({"RQ_REPOSITORY": "localhost:5000/acme/api:1.2"}, ("acme", "api")),
    ({"RQ_REPOSITORY": "r.example/acme/api@sha256:0123"}, ("acme", "api")),
    # What is written out is taken as it is; an app is derived only within that workspace.
    ({"RQ_WORKSPACE": "Team A", "CI_PROJECT_PATH": "acme/api"}, ("Team A", None)),
    ({"RQ_WORKSPACE": "acme/sub", "CI_PROJECT_PATH": "Acme/Sub/Api"}, ("acme/sub", "api")),
    ({"RQ_APP": "Worker", "CI_PROJECT_PATH": "Acme/Api"}, ("acme", "Worker")),
    ({"RQ_WORKSPACE": "w", "RQ_APP": "a", "CI_REGISTRY_IMAGE": "r.example/x/y"}, ("w", "a")),
    ({"RQ_REPOSITORY": "alone"}, ("alone", None)),
]


async def test_workspace_and_app_are_those_of_the_image_in_lower_case(tmp_path):
    async with answered(PROCEED) as (base, asked):
        for shell in SHELLS[:2]:
            for given, (workspace, app) in NAMES:
                settings: dict[str, Any] = {"RQ_WORKSPACE": None} | given | {"RQ_RUN_ID": "7"}
                code, said = await run(base, shell, **settings)
                assert code == 0, said
                sent = asked.pop()
                assert (sent["workspace"], sent.get("app")) == (workspace, app), given
                assert sent["build_id"] == f"7-{app or ''}"


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
        found = re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", text)
        assert found is not None, text
        return str(given.get(found[1], action["inputs"][found[1]].get("default", "")))

    of_the_run = step["env"].pop("RQ_RUN_ID")
    assert not re.findall(r"inputs", of_the_run)
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


async def test_each_app_of_a_run_has_a_build_id_of_its_own():
    (step,) = read("github/action.yml")["runs"]["steps"]
    assert step["env"]["RQ_RUN_ID"] == "${{ github.run_id }}-${{ github.run_attempt }}"
    job = read("gitlab/pre-build.yml")[".registry-quota-pre-build"]
    assert job["variables"]["RQ_RUN_ID"] == "$CI_PIPELINE_ID"
    async with answered(PROCEED) as (base, asked):
        for app, build in (("api", None), ("web", None), ("web", "b")):
            await run(base, RQ_RUN_ID="4711", RQ_APP=app, RQ_BUILD_ID=build)
    assert [sent["build_id"] for sent in asked] == ["4711-api", "4711-web", "b"]


async def test_the_gitlab_job_asks_for_a_project_with_capitals_and_subgroups(tmp_path):
    job = read("gitlab/pre-build.yml")[".registry-quota-pre-build"]
    script = tmp_path / "job.sh"
    script.write_text(job["script"][0])
    given: dict[str, Any] = {
        "CI_PIPELINE_ID": "99",
        "CI_PROJECT_ROOT_NAMESPACE": "Acme",
        "CI_PROJECT_NAME": "Api",
    }
    given |= {"CI_PROJECT_PATH": "Acme/Sub/Api", "CI_REGISTRY_IMAGE": "r.example:5050/acme/sub/api"}
    variables: dict[str, Any] = {
        name: re.sub(r"\$(\w+)", lambda found: given.get(found[1], ""), text)
        for name, text in job["variables"].items()
    }
    async with answered(PROCEED) as (base, asked):
        code, said = await run(base, "sh", script, **(given | variables))
    assert code == 0, said
    assert asked == [
        {"workspace": "acme", "app": "sub/api", "build_id": "99-sub/api", "timeout_s": 60}
    ]


def test_the_gitlab_template_has_the_script_word_for_word():
    job = read("gitlab/pre-build.yml")[".registry-quota-pre-build"]
    assert job["script"] == [SCRIPT.read_text()]
    assert {"RQ_REPOSITORY", "RQ_WORKSPACE", "RQ_APP", "RQ_BUILD_ID"} <= job["variables"].keys()
    assert job["stage"] == ".pre"
