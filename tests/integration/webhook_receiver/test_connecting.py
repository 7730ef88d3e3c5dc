"""The recipes of docs/connect-a-registry.md, tried: the files of the page, real registries of both versions,
nginx, a token server, and a real receiver."""

import configparser
import io
import json
import re
import shutil
import ssl
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from cli.doctor import registry as doctor
from cli.doctor.connect import TOKEN_PLACEHOLDER, notification_block
from devstack.errors import StackError
from devstack.ports import free_port
from devstack.processes import run_tool
from registry.connect import registry_client
from registry.names import format_digest
from registry.push import build_image, build_layer, push_image
from registry.transport import Retries
from runtime.settings import Settings
from tests.integration.webhook_receiver.conftest import TOKEN
from tests.support.certificates import Authority
from tests.support.nginx import running_nginx
from tests.support.pages import ROOT, block
from tests.support.registries import HTPASSWD, answering, program_or_skip, running_configured
from tests.support.token_server import Account, token_server
from tests.support.waiting import wait_until

PAGE = "docs/connect-a-registry.md"
EVERYTHING = Account("throw-away", frozenset({"pull", "push", "delete"}), catalog=True)


def merged(*parts):
    """The page's configurations as one, as a person merges them."""
    document: dict[str, Any] = {}
    for part in parts:
        document |= yaml.safe_load(block(PAGE, part))
    return document


@dataclass
class Place:
    """Where a recipe is tried: what stands for the page's addresses and paths here."""

    folder: Path
    version: str
    port: int
    receiver_url: str

    def configuration(self, document, **replaced):
        """The page's configuration with this place's addresses, paths and token."""
        text = json.dumps(document)
        for old, new in {
            "http://receiver.example.com:8080/v1/notifications": self.receiver_url,
            TOKEN_PLACEHOLDER: TOKEN,
            "/var/lib/registry": str(self.folder / "storage"),
            '":5000"': f'"127.0.0.1:{self.port}"',
            "/etc/distribution": str(self.folder),
            **replaced,
        }.items():
            assert old in text or old == "/etc/distribution", f"the page does not say {old}"
            text = text.replace(old, new)
        return text

    def settings(self, **changes):
        """Of a registry-quota that reads this registry."""
        return Settings(**({"registry_url": f"http://127.0.0.1:{self.port}"} | changes))


@pytest.fixture(params=["2", "3"])
def place(request, receiver, tmp_path):
    url = f"http://127.0.0.1:{receiver.port}/v1/notifications"
    return Place(tmp_path, request.param, free_port(), url)


async def push_and_see_it_arrive(settings, receiver):
    """Push an image as a client of this registry does; its notification is durable in Kafka."""
    repository = f"connecting-{uuid.uuid4().hex[:8]}/api"
    image = build_image([build_layer(repository, 2_000)])
    async with registry_client(settings, retries=Retries(attempts=1)) as client:
        await push_image(client, repository, image, "1.0")
    seen: list[dict[str, Any]] = []

    async def arrived():
        seen.extend(json.loads(record.value) for record in await receiver.records())
        return [
            event["target"]
            for event in seen
            if event["action"] == "push"
            and event["target"].get("digest") == format_digest(image.digest)
        ]

    (target,) = await wait_until(arrived, 10, what="the push arrives")
    assert (target["repository"], target["tag"]) == (repository, "1.0")
    declared = {item["digest"] for item in target["references"]}
    assert declared == {format_digest(blob.digest) for blob in image.blobs}


def parts(scope):
    """`repository:acme/api:pull,push` → its kind, name and actions."""
    kind, _, rest = scope.partition(":")
    return (kind, *rest.rsplit(":", 1))


async def states(settings):
    """What `doctor` says of the registry: check → state."""
    return {finding.check: finding.state for finding in await doctor.check(settings)}


FINE = {"registry": "ok", "clock": "ok", "lists": "ok", "deletes": "ok", "blobs": "ok"}


async def test_a_registry_with_the_pages_configuration_tells_its_pushes(place, receiver):
    configuration = place.configuration(merged("config.yml"))
    program = program_or_skip(place.version)
    with running_configured(place.folder, configuration, program=program):
        await answering(f"http://127.0.0.1:{place.port}")
        await push_and_see_it_arrive(place.settings(), receiver)
        assert await states(place.settings()) == FINE


async def test_a_registry_with_passwords_lets_the_account_in(place, receiver):
    configuration = place.configuration(merged("config.yml", "auth-htpasswd.yml"))
    (place.folder / "htpasswd").write_text(HTPASSWD)
    with running_configured(place.folder, configuration, program=program_or_skip(place.version)):
        await answering(f"http://127.0.0.1:{place.port}")
        known = place.settings(
            registry_username="tester", registry_password=SecretStr("throw-away")
        )
        await push_and_see_it_arrive(known, receiver)
        assert await states(known) == FINE
        assert await states(place.settings()) == {"registry": "failed"}


async def test_a_registry_with_a_token_server_lets_the_account_in_for_what_it_may(place, receiver):
    authority = Authority(place.folder / "authority")
    accounts = {
        "registry-quota": EVERYTHING,
        "ci": Account("throw-away", frozenset({"pull", "push"})),
    }
    async with token_server(authority.issue("auth.example.com"), accounts) as server:
        shutil.copy(authority.file, place.folder / "token.pem")
        realm = {"https://auth.example.com/token": server.url}
        configuration = place.configuration(merged("config.yml", "auth-token.yml"), **realm)
        with running_configured(
            place.folder, configuration, program=program_or_skip(place.version)
        ):
            await answering(f"http://127.0.0.1:{place.port}")

            def account(name, password="throw-away"):
                return place.settings(registry_username=name, registry_password=SecretStr(password))

            await push_and_see_it_arrive(account("ci"), receiver)
            assert await states(account("registry-quota")) == FINE
            assert await states(account("ci")) == FINE | {
                "lists": "failed",
                "deletes": "failed",
                "blobs": "skipped",
            }
            assert await states(account("ci", "wrong")) == {"registry": "failed"}
    # What the page's table says, and nothing else. (A registry names actions in any order.)
    asked = {scope for scopes in server.asked for scope in scopes}
    kinds = {(kind, *sorted(what.split(","))) for kind, _, what in map(parts, asked)}
    table = re.findall(r"^\| `(\w+:\S+)` \|", (ROOT / PAGE).read_text(), re.MULTILINE)
    assert kinds == {(kind, *sorted(what.split(","))) for kind, _, what in map(parts, table)}


async def test_a_registry_behind_nginx_is_reached_and_delivers_by_tls(place, receiver):
    authority = Authority(place.folder / "authority")
    pair = authority.issue()
    outside, notifications = free_port(), free_port()
    servers = block(PAGE, "nginx.conf")
    for old, new in (
        (
            "listen 443 ssl;\n    server_name registry",
            f"listen 127.0.0.1:{outside} ssl;\n    server_name registry",
        ),
        (
            "listen 443 ssl;\n    server_name not",
            f"listen 127.0.0.1:{notifications} ssl;\n    server_name not",
        ),
        ("127.0.0.1:5000", f"127.0.0.1:{place.port}"),
        ("127.0.0.1:8080", f"127.0.0.1:{receiver.port}"),
        *(
            (f"/etc/nginx/tls/{name}.pem", str(pair.certificate))
            for name in ("registry", "notifications")
        ),
        *((f"/etc/nginx/tls/{name}.key", str(pair.key)) for name in ("registry", "notifications")),
    ):
        assert old in servers, f"the page does not say {old}"
        servers = servers.replace(old, new)
    place.receiver_url = f"https://127.0.0.1:{notifications}/v1/notifications"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            running_nginx(servers, place.folder, outside, notifications)
        )
        stack.enter_context(
            running_configured(
                place.folder,
                place.configuration(merged("config.yml")),
                program=program_or_skip(place.version),
                SSL_CERT_FILE=str(authority.file),
            )
        )
        await answering(f"http://127.0.0.1:{place.port}")
        settings = place.settings(
            registry_url=f"https://127.0.0.1:{outside}", ca_file=str(authority.file)
        )
        await push_and_see_it_arrive(settings, receiver)
        assert await states(settings) == FINE
        # What is too large for the receiver is its to refuse: it answers 202 and keeps a dead letter.
        assert await receiver_takes(place, authority, b"x" * (9 * 1024 * 1024), receiver) == 202


async def receiver_takes(place, authority, body, receiver):
    """The status of a delivery by nginx."""
    context = ssl.create_default_context(cafile=str(authority.file))
    async with receiver.http.post(
        place.receiver_url,
        data=io.BytesIO(body),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        ssl=context,
    ) as response:
        return response.status


def test_the_pages_configuration_is_what_doctor_prints():
    page = yaml.safe_load(block(PAGE, "config.yml"))
    printed = yaml.safe_load(
        notification_block("http://receiver.example.com:8080/v1/notifications")
    )
    assert page["notifications"] == printed["notifications"]
    assert printed["storage"].items() <= page["storage"].items()


@pytest.mark.parametrize("version", ["2", "3"])
async def test_the_pages_compose_file_starts_a_registry_with_its_configuration(version, tmp_path):
    image = f"registry:{version}"
    await engine_with(image)
    port, project = free_port(), f"rq-recipe-{uuid.uuid4().hex[:8]}"
    file = block(PAGE, "compose.yml").replace('"5000:5000"', f'"127.0.0.1:{port}:5000"')
    assert "image: registry:3 " in file
    if version == "2":
        file = file.replace("registry:3 ", "registry:2 ").replace(
            ":/etc/distribution/config.yml", ":/etc/docker/registry/config.yml"
        )
    (tmp_path / "compose.yml").write_text(file)
    (tmp_path / "config.yml").write_text(block(PAGE, "config.yml"))
    compose = ["docker", "compose", "-p", project, "-f", str(tmp_path / "compose.yml")]
    try:
        await run_tool([*compose, "up", "-d"], what="docker compose up")
        await answering(f"http://127.0.0.1:{port}")
        log = await run_tool([*compose, "logs", "--no-log-prefix"], what="docker compose logs")
    finally:
        await run_tool([*compose, "down", "-v", "-t", "1"], what="docker compose down")
    assert "configuring endpoint registry-quota (http://receiver.example.com:8080/v1" in log


async def engine_with(image):
    """Skip unless `docker compose` and an engine that has the image are here."""
    if shutil.which("docker") is None:
        pytest.skip("no Docker here")
    for command in (["compose", "version"], ["image", "inspect", image]):
        try:
            await run_tool(["docker", *command], what="docker " + " ".join(command))
        except StackError as error:
            pytest.skip(str(error))


def _as_it_is(option: str) -> str:
    return option


async def test_systemd_accepts_the_pages_unit(tmp_path):
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = _as_it_is  # type: ignore[method-assign, assignment]
    unit.read_string(block(PAGE, "registry.service"))
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert arguments == ["serve", "${CREDENTIALS_DIRECTORY}/config.yml"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    # `verify` wants the program to be there.
    text = block(PAGE, "registry.service").replace(program, "/bin/true")
    (tmp_path / "registry.service").write_text(text)
    await run_tool(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "registry.service"],
        what="systemd-analyze",
    )
