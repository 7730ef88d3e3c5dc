"""Bytes that want to cost us memory, time or a misleading log."""

import asyncio
import gzip
import io
import json

import pytest
from structlog.testing import capture_logs

from quota.api import requests
from tests.support.live_api import OPERATOR
from tests.support.waiting import wait_until

HOOK = "/v1/hooks/pre-build"


@pytest.mark.parametrize("path", [HOOK, "/sign-in"])
async def test_a_bomb_is_not_unpacked_further_than_a_body_may_be(api, path):
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    headers = {
        "Authorization": f"Bearer {OPERATOR}",
        "Content-Encoding": "gzip",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    async with api.session.post(f"{api.base}{path}", data=bomb, headers=headers) as answer:
        assert answer.status == 413
        assert "larger than 1 MiB" in await answer.text()


@pytest.mark.parametrize("path", [HOOK, "/sign-in"])
async def test_slow_bytes_end_in_time(api, monkeypatch, path):
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.base.rpartition(":")[2]))
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nslow".encode()
    )
    async with asyncio.timeout(10):
        answered = await reader.read()
    assert answered.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.3 seconds" in answered
    writer.close()


async def test_a_caller_that_hangs_up_is_not_taken_for_a_database_that_is_away(api):
    with capture_logs() as lines:
        _, writer = await asyncio.open_connection("127.0.0.1", int(api.base.rpartition(":")[2]))
        writer.write(
            f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\n"
            "Content-Length: 1000\r\n\r\nhalf".encode()
        )
        await writer.drain()
        await asyncio.sleep(0)
        writer.transport.abort()

        async def served() -> bool:
            return bool((await api.call("GET", "/v1/workspaces"))[0] == 200)

        await wait_until(served, 5, what="an answer to somebody else")
    assert not [line for line in lines if line["event"] in ("database_away", "request_failed")]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Long": "y" * 20_000},
        {f"X-{number}": "y" for number in range(2000)},
        {"Authorization": f"Bearer {'y' * 7000}"},
    ],
    ids=["long", "many", "long token"],
)
async def test_headers_have_an_end(api, headers):
    async with api.session.get(f"{api.base}/v1/workspaces", headers=headers) as answer:
        assert 400 <= answer.status < 500


async def test_a_large_body_is_refused(api):
    status, _response, raw = await api.raw("POST", HOOK, data=io.BytesIO(b" " * (2 * 1024 * 1024)))
    assert status == 413
    assert json.loads(raw)["detail"] == "the body is larger than 1 MiB"
