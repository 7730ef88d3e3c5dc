"""docs/notifications-do-not-arrive.md: each trouble is brought about, and the page quotes what is said."""

import asyncio
import json
import os
import re
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
from aiohttp import web
from pydantic import SecretStr
from yarl import URL

from cli.doctor import doors, kafka
from cli.doctor.notifications import Heard
from devstack.ports import free_port
from quota import health
from registry.client import RegistryClient
from registry.push import build_image, build_layer, push_image
from runtime.settings import Settings
from tests.integration.webhook_receiver.conftest import TOKEN
from tests.support.certificates import Authority
from tests.support.pages import ROOT, block
from tests.support.pipelines import NOW, status
from tests.support.registries import answering, program_or_skip, running_configured
from tests.support.waiting import wait_until

PAGE = "docs/notifications-do-not-arrive.md"
TEXT = (ROOT / PAGE).read_text()
PATH = "/v1/notifications"


def quoted(heading):
    """First column in backticks → second column, of the table in a section."""
    section = TEXT.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", section, re.MULTILINE)
    assert rows
    return rows


LOG = [words for words, _ in quoted("2.")]
DOCTOR = {(check, found.strip("`")) for step in ("1.", "4.") for check, found in quoted(step)}


@asynccontextmanager
async def troubles(folder):
    """Addresses, by what a registry says when it delivers there."""

    async def answer(request):
        if request.path == "/slow":
            await asyncio.sleep(2)
        return web.Response(status=int(request.match_info.get("status", 202)))

    app = web.Application()
    app.router.add_post("/status/{status}", answer)
    app.router.add_post("/slow", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    pair = Authority(folder).issue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        plain, secure = (address[1] for address in runner.addresses)
        yield {
            "connection refused": f"http://127.0.0.1:{free_port()}{PATH}",
            "no such host": f"http://receiver.invalid:8080{PATH}",
            "503 Service Unavailable unaccepted": f"http://127.0.0.1:{plain}/status/503",
            "413 Request Entity Too Large unaccepted": f"http://127.0.0.1:{plain}/status/413",
            "Client.Timeout exceeded while awaiting headers": f"http://127.0.0.1:{plain}/slow",
            "certificate signed by unknown authority": f"https://127.0.0.1:{secure}/status/202",
        }
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("version", ["2", "3"])
async def test_a_registrys_log_says_what_the_page_says(version, receiver, tmp_path):
    program = program_or_skip(version)
    ours = f"http://127.0.0.1:{receiver.port}"
    async with troubles(tmp_path / "authority") as addresses:
        addresses |= {
            "401 Unauthorized unaccepted": f"{ours}{PATH}",
            "404 Not Found unaccepted": f"{ours}/notifications",
        }
        assert set(addresses) == set(LOG)
        # One registry with an endpoint for each: they deliver independently of each other.
        port = free_port()
        configuration = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(tmp_path / "storage")}},
            "http": {"addr": f"127.0.0.1:{port}"},
            "notifications": {
                "endpoints": [
                    {"name": f"registry-quota{n}", "url": url, "timeout": "500ms"}
                    | {"threshold": 5, "backoff": "1s"}
                    for n, url in enumerate(addresses.values())
                ]
            },
        }
        with running_configured(tmp_path, json.dumps(configuration), program=program):
            await answering(f"http://127.0.0.1:{port}")
            async with RegistryClient(f"http://127.0.0.1:{port}") as client:
                image = build_image([build_layer("not-arriving", 500)])
                await push_image(client, "acme/api", image, "1.0")

            def said():
                lines = (tmp_path / "registry.log").read_text().splitlines()
                complaints = [line for line in lines if "retryingsink: error writing event" in line]
                return all(
                    any(words in line and url in line for line in complaints)
                    for words, url in addresses.items()
                )

            await wait_until(said, 15, what="every complaint in the registry's log")
        started = (tmp_path / "registry.log").read_text()
        for number, url in enumerate(addresses.values()):
            assert f"configuring endpoint registry-quota{number} ({url})" in started
    assert "configuring endpoint registry-quota (http" in TEXT


async def test_doctor_says_what_the_page_says(receiver, start_receiver):
    address = URL(f"http://127.0.0.1:{receiver.port}{PATH}")
    empty = kafka.Log(ends={0: 0}, events=0, dead_letters=0)
    behind = status(lag_events=9, lag_seconds=90.0, consumers=0, sizes_pending=2)
    checks = [msgspec.structs.asdict(item) for item in health.judge(behind, now=NOW)]
    stopping = await start_receiver()
    stopping.stopping.set("for this test")

    async def asked(url, token):
        settings = Settings(webhook_tokens=SecretStr(token))
        return await doors.check_receiver(settings, url, {})

    told = [
        *await asked(address, TOKEN),
        *await asked(address, "not-the-token"),
        *await asked(URL(f"http://127.0.0.1:{free_port()}{PATH}"), TOKEN),
        *await asked(URL(f"http://127.0.0.1:{stopping.port}{PATH}"), TOKEN),
        *kafka.arriving(empty),
        *kafka.arriving(
            replace(empty, events=3, heard={"default": Heard(5.0)}), open_dead_letters=1
        ),
        *doors.judge_status({"checks": checks}),
    ]
    for check, found in DOCTOR:
        assert any(finding.check == check and found in finding.found for finding in told), (
            check,
            found,
            told,
        )


async def test_the_way_can_be_tried_by_hand(receiver):
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        block(PAGE, "try the way"),
        env={
            **os.environ,
            "RQ_WEBHOOK_URL": f"http://127.0.0.1:{receiver.port}{PATH}",
            "RQ_WEBHOOK_TOKEN": TOKEN,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert printed == b"202\n"
    assert await receiver.records() == []
