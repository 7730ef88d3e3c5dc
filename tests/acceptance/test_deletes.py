"""The delete of a blob with a manifest's bytes is no way around the quota, on the whole system."""

from itertools import count

from registry.names import format_digest
from registry.push import build_image, build_layer, push_image, upload_blob
from registry.transport import Request
from tests.support.system import System
from tests.support.waiting import wait_until

_NUMBERS = count()


async def test_only_a_manifests_own_delete_takes_it_out_of_the_account(system: System) -> None:
    workspace = f"twins{next(_NUMBERS)}"
    repository = f"{workspace}/app"
    tagged, untagged = (
        build_image([build_layer(name, 4000)], label=name) for name in ("tagged", "untagged")
    )
    for image, tags in ((tagged, ["1"]), (untagged, [])):
        await push_image(system.registry, repository, image, *tags)
        await upload_blob(system.registry, repository, image.manifest.content)
    await system.settled()

    async def usage() -> int:
        return int((await system.get(f"/v1/workspaces/{workspace}/usage"))["usage_bytes"])

    held = await usage()
    assert held > 8000
    for image in (tagged, untagged):
        blob = system.registry.url(f"/v2/{repository}/blobs/{format_digest(image.digest)}")
        request = Request(method="DELETE", url=blob, scope=f"repository:{repository}:delete")
        assert (await system.registry.transport.send(request)).status == 202
        assert (await system.registry.head_manifest(repository, image.digest)).exists
    await system.settled()
    assert await usage() == held

    for image in (tagged, untagged):
        await system.registry.delete_manifest(repository, image.digest)

    async def gone() -> bool:
        return await usage() == 0

    await wait_until(gone, 30, interval=0.2, what="the registry was asked, and all is gone")
