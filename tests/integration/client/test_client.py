"""The typed client: every answer of the API as its type, every failure as one of two errors."""

import re

import aiohttp
import msgspec
import pytest
from aiohttp import web

from quota.api import models as answers
from registry_quota import RefusedError, RegistryQuota, UnreachableError, models
from runtime.http import serving
from tests.support.live_api import OPERATOR

SAME = [
    (models.Workspace, answers.WorkspaceAnswer),
    (models.Usage, answers.UsageAnswer),
    (models.Image, answers.ImageAnswer),
    (models.CleanedImage, answers.CleanedImage),
    (models.FailedImage, answers.FailedImage),
    (models.Cleanup, answers.CleanupAnswer),
    (models.StartedCleanup, answers.StartedCleanup),
    (models.HookReservation, answers.HookReservation),
    (models.HookAnswer, answers.HookAnswer),
    (models.Reservation, answers.ReservationAnswer),
    (models.Mapped, answers.MappedAnswer),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=lambda kind: kind.__name__)
def test_the_clients_types_have_the_fields_that_the_api_documents(ours, theirs):
    assert {field.name for field in msgspec.structs.fields(ours)} == theirs.model_fields.keys()


async def test_a_build_and_its_workspace_by_types(api):
    async with RegistryQuota(api.base, OPERATOR) as quota:
        configured = await quota.configure("acme", quota_bytes=10**9, enforcement="strict")
        assert (configured.quota_bytes, configured.enforcement) == (10**9, "strict")
        answer = await quota.pre_build("acme", app="api", build_id="1", incoming_bytes=10**6)
        assert not answer.denied
        assert answer.reservation is not None
        assert answer.reservation.expires_at.tzinfo is not None
        layers = [("sha256:" + "0" * 64, 10**10)]
        assert (await quota.pre_build("acme", layers=layers, dry_run=True)).denied
        assert (await quota.usage("acme")).reserved_bytes == 10**6
        assert [item.workspace async for item in quota.workspaces()] == ["acme"]
        assert [item async for item in quota.images("acme")] == []
        await quota.release("acme", answer.reservation.id)
        held = await quota.reserve("acme", "2", 5, app="web")
        assert (held.bytes, held.app) == (5, "web")
        assert (await quota.clean("acme")).done
        moved = await quota.map_repository("team/thing", "acme", app="shop")
        assert (moved.workspace, moved.app) == ("acme", "shop")


async def test_a_refusal_names_status_and_fields(api):
    async with RegistryQuota(api.base, OPERATOR) as quota:
        with pytest.raises(RefusedError) as refused:
            await quota.configure("acme", quota_bytes=-1)
        assert (refused.value.status, refused.value.retriable) == (422, False)
        assert refused.value.errors[0]["field"] == "quota_bytes"
        with pytest.raises(RefusedError, match="no workspace"):
            await quota.usage("no/body")
    async with RegistryQuota(api.base, "wrong") as quota:
        with pytest.raises(RefusedError) as denied:
            await quota.usage("acme")
        assert denied.value.status == 401


async def test_no_answer_of_the_api_is_unreachable_whatever_it_is():
    async def html(_request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    async def json(_request: web.Request) -> web.Response:
        return web.json_response({"decision": "maybe"})

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.1:9/")

    app = web.Application()
    for name, handler in (("html", html), ("json", json), ("elsewhere", elsewhere)):
        app.router.add_post(f"/{name}/v1/hooks/pre-build", handler)
    async with serving(app, host="127.0.0.1", port=0) as port, aiohttp.ClientSession() as session:
        for base in (
            *(f"http://127.0.0.1:{port}/{name}" for name in ("html", "json", "elsewhere")),
            "http://127.0.0.1:9",
        ):
            quota = RegistryQuota(base, "token", session=session)
            async with quota:
                with pytest.raises(UnreachableError) as away:
                    await quota.pre_build("acme")
                assert not re.search(r"Error|Connect call|ssl:|0x", str(away.value)), away.value
        assert str(away.value).endswith("(Connection refused)")
        assert not session.closed
