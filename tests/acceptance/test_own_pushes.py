"""Which pushes are our own is known by what we did: a client that writes as we do gains nothing."""

import uuid
from typing import Any

from registry.client import RegistryClient
from registry.names import format_digest
from registry.push import Image, build_image, build_layer, push_image
from tests.acceptance.test_main_job import accounted, set_up
from tests.support.system import System


def an_image() -> Image:
    return build_image([build_layer(uuid.uuid4().hex, 100_000)])


async def by_digest(system: System, workspace: str) -> dict[str, dict[str, Any]]:
    return {image["digest"]: image for image in await system.images(workspace)}


async def test_a_client_that_writes_as_we_do_exempts_no_push_of_its_own(system: System):
    workspace = await set_up(system, 10_000_000)
    image = an_image()
    async with RegistryClient(
        str(system.registry.base), user_agent="registry-quota/1 (restore)"
    ) as client:
        await push_image(client, f"{workspace}/api", image, "1")
    await accounted(system, workspace, images=1)
    (told,) = await system.images(workspace)
    assert (told["digest"], told["named_by"]) == (format_digest(image.digest), "tag")
    assert told["pushed_at"] == told["named_at"] is not None


async def test_what_we_put_back_is_no_push_and_settles_no_builds_reservation(system: System):
    workspace = await set_up(system, 1_000_000, untagged_grace=0)
    for number in range(8):
        await push_image(system.registry, f"{workspace}/api", an_image(), f"v{number}")
    await accounted(system, workspace, images=8)
    before = await by_digest(system, workspace)

    build = {"workspace": workspace, "app": "api", "build_id": "ci-1", "incoming_bytes": 150_000}
    status, answer = await system.call("POST", "/v1/hooks/pre-build", build)
    assert status == 200
    assert answer["cleanup"]["images"], answer
    status, done = await system.call(
        "POST", f"/v1/workspaces/{workspace}/restores", {"run": answer["cleanup"]["run_id"]}
    )
    assert (status, done["restored"]) == (200, len(answer["cleanup"]["images"]))
    await accounted(system, workspace, images=8)
    await system.settled()
    times = ("pushed_at", "named_at", "named_by", "tags")
    after = await by_digest(system, workspace)
    assert {digest: [image[name] for name in times] for digest, image in after.items()} == {
        digest: [image[name] for name in times] for digest, image in before.items()
    }
    listed = await system.get(f"/v1/workspaces/{workspace}/reservations")
    assert [item["bytes"] for item in listed["items"]] == [150_000]
