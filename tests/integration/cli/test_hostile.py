"""Commands beside an API whose every text is hostile: nothing of it steers a terminal or ends a command."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from cli.console import CommandError
from cli.main import app
from tests.support.live_api import OPERATOR, live_api

HOSTILE = "\x1b]0;x\x07\x9b31m\u202e\u2028[red]x[/red]\\[a\ud800"
OBEYED = set("\x1b\x07\x9b\u202e\ud800")
DIGEST = "sha256:" + "ab" * 32
COMMANDS = (
    "workspaces list",
    "workspaces show acme",
    "workspaces show nobody",
    "images acme",
    "images acme --json",
    "plan acme",
    "leases list acme",
    "leases list acme --json",
    "tokens list",
    "restore acme/api:gone",
)


def hostile(value: Any) -> Any:
    """A document in which every text has become worse."""
    if isinstance(value, dict):
        return {
            name: item if name == "next_cursor" else hostile(item) for name, item in value.items()
        }
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


async def test_no_text_of_the_api_steers_the_terminal(
    pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_api(pool) as api:
        for method, path, body in (
            ("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**9}),
            ("POST", "/v1/workspaces/acme/leases", {"source": "k8s", "digests": [DIGEST]}),
            ("POST", "/v1/tokens", {"scopes": ["read"], "workspaces": ["acme"], "name": "ci"}),
        ):
            status, _ = await api.call(method, path, body)
            assert status in (200, 201), path

        async def worse(request: web.Request) -> web.Response:
            async with api.session.request(
                request.method,
                f"{api.base}{request.path_qs}",
                data=await request.read() or None,
                headers={"Authorization": f"Bearer {OPERATOR}", "Content-Type": "application/json"},
            ) as answer:
                text = json.dumps(hostile(json.loads(await answer.text())))
                return web.Response(
                    status=answer.status, text=text, content_type=answer.content_type
                )

        between = web.Application()
        between.router.add_route("*", "/{path:.*}", worse)
        async with TestServer(between) as server:
            monkeypatch.setenv("RQ_RUN_DIR", "/nowhere")
            monkeypatch.setenv("RQ_API_URL", str(server.make_url("")))
            monkeypatch.setenv("RQ_API_TOKEN", OPERATOR)
            for command in COMMANDS:
                ran = await asyncio.to_thread(CliRunner().invoke, app, command.split())
                assert not OBEYED & set(ran.output), (command, ran.output)
                if ran.exit_code:
                    # Asked for in earnest, and refused in a sentence (`main` prints it).
                    assert ran.exit_code != 2, (command, ran.output)
                    assert isinstance(ran.exception, SystemExit | CommandError), command
                elif "--json" in command:
                    json.loads(ran.stdout)
