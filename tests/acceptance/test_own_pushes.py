"""Which pushes are our own is known by what we did, and which images are new by what the registry says."""

import uuid
from datetime import UTC, datetime
from typing import Any

from registry.client import RegistryClient
from registry.names import format_digest
from registry.push import Image, build_image, build_layer, push_image
from tests.acceptance.test_main_job import accounted, fresh, set_up
from tests.support.deliveries import envelope, event
from tests.support.system import System
from tests.support.waiting import wait_until


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


async def test_with_a_stolen_webhook_token_the_newest_images_and_latest_are_not_lost(
    system: System,
):
    """Events of now, of the oldest images: same tag, `latest`, a tag that is not there, none."""
    workspace = await set_up(system, 900_000, untagged_grace=0)
    repository = f"{workspace}/api"
    images = [an_image() for _ in range(8)]
    for number, image in enumerate(images):
        await push_image(system.registry, repository, image, f"v{number}", "latest")
    await accounted(system, workspace, images=8)

    def forged(image: Image, tag: str | None) -> dict[str, Any]:
        target: dict[str, Any] = {
            "repository": repository,
            "digest": format_digest(image.digest),
            "mediaType": image.manifest.media_type,
            "size": len(image.manifest.content),
            "length": len(image.manifest.content),
            "tag": tag,
        }
        made = event(**target)
        del made["target"]["references"]
        if tag is None:
            del made["target"]["tag"]
        return made | {"timestamp": datetime.now(UTC).isoformat()}

    tags = ("v{}", "latest", "again{}", None)
    told = [
        forged(image, tag and tag.format(number))
        for number, image in enumerate(images[:4])
        for tag in tags
    ]
    assert await system.notify(envelope(*told)) == 202
    await system.settled()
    build = {"workspace": workspace, "app": "api", "incoming_bytes": 100_000, "timeout_s": 60}
    status, answer = await system.call("POST", "/v1/hooks/pre-build", build)
    assert (status, answer["reason"]) == (200, "cleaned_to_target")
    assert {tag for image in answer["cleanup"]["images"] for tag in image["tags"]} >= {"v0", "v1"}
    left = {tag async for tag in system.registry.list_tags(repository)}
    assert left >= {"v5", "v6", "v7", "latest"}
    latest = await system.registry.tag_digest(repository, "latest")
    assert latest.digest == images[7].digest


async def test_a_forged_size_is_gone_again_once_storage_was_asked(system: System):
    """2^42 bytes, told for a repository that nobody has, of a blob that somebody holds."""
    workspace = await set_up(system, 10_000_000)
    image = an_image()
    await push_image(system.registry, f"{workspace}/api", image, "1")
    held = (await accounted(system, workspace, images=1))["usage_bytes"]
    layer = max(image.blobs, key=lambda blob: len(blob.content))
    forged = event(
        f"{fresh('stranger')}/repo",
        digest=format_digest(layer.digest),
        mediaType="application/octet-stream",
        size=2**42,
        length=2**42,
    )
    for name in ("tag", "references"):
        del forged["target"][name]
    assert await system.notify(envelope(forged)) == 202
    await system.settled()

    async def right() -> bool:
        return bool(await system.usage(workspace) == held)

    await wait_until(right, 30, interval=0.2, what="storage was asked, and its word counts")
    assert await system.notify(envelope(forged | {"id": str(uuid.uuid4())})) == 202
    await system.settled()
    assert await system.usage(workspace) == held
