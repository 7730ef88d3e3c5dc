"""A tenant at the gRPC door reaches for what is another's."""

import grpc
import pytest


async def test_another_tenants_repository_is_not_taken_and_its_workspace_not_told(door):
    mallory = await door.token("read", "hook", "write", "admin", workspaces=["mallory"])
    await door.behind.push("acme/api", "v1", 1000)
    await door.behind.push("mallory/x", "v1", 1000)
    await door.track(workspace_id="secret-project", app_id="x", repository="mallory/x")
    for workspace, repository in (
        ("mallory", "acme/api"),
        ("mallory", "acme/never-pushed"),
        ("mallory", "no-slash"),
        ("mallory", "mallory/x"),
        ("acme", "mallory/x"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.track(workspace_id=workspace, repository=repository, token=mallory)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert "secret-project" not in (caught.value.details() or "")
    assert await door.behind.usage("acme") > 1000


async def test_several_tokens_in_one_call_do_not_add_up(door):
    """The first is looked at, whatever is behind it."""
    mallory = await door.token("hook", workspaces=["mallory"])
    acme = await door.token("hook", workspaces=["acme"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.check("acme", token=f"{mallory}, Bearer {acme}")
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
