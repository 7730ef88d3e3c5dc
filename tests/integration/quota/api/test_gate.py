"""What passes the gate while too much is going on: what watches the process, and streams."""

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from quota.api.gate import Gate
from quota.api.problems import problems


async def test_a_workspace_called_live_passes_no_gate():
    async def answered(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[problems(lambda _why: None), Gate(most=0).middleware])
    for path in (
        "/healthz",
        "/v1/workspaces/{workspace}",
        "/v1/workspaces/{workspace}/usage",
        "/workspaces/{workspace:[^/]+}",
        "/workspaces/{workspace:[^/]+}/live",
        "/pipeline/live",
    ):
        app.router.add_get(path, answered)
    async with TestClient(TestServer(app)) as client:
        for path in ("/healthz", "/workspaces/live/live", "/pipeline/live"):
            assert (await client.get(path)).status == 200, path
        for path in ("/v1/workspaces/live", "/v1/workspaces/a%2Flive", "/workspaces/live", "/live"):
            assert (await client.get(path)).status == 503, path
