"""The demo's clients and its puller, on a real registry."""

import shutil
from dataclasses import replace

import pytest

from cli.demo.check import recount
from cli.demo.images import Release
from cli.demo.pull import pull_everything
from cli.demo.push import OwnPush, Skopeo, choose_pusher
from registry.client import RegistryClient
from registry.names import format_digest
from registry.push import Index, build_image, build_index, build_layer


def manifests(repository: str, release: Release) -> set[tuple[str, str]]:
    return {(repository, format_digest(blob.digest)) for blob in release.manifests}


def stored(releases: list[Release]) -> int:
    blobs = [blob for release in releases for blob in release.manifests]
    blobs += [blob for release in releases for image in release.images for blob in image.blobs]
    return sum({blob.digest: len(blob.content) for blob in blobs}.values())


@pytest.mark.parametrize("kind", [Skopeo, OwnPush])
async def test_what_was_pushed_can_be_pulled_and_what_is_missing_is_named(backend, tmp_path, kind):
    if kind is Skopeo and shutil.which("skopeo") is None:
        pytest.skip("no skopeo on the PATH")
    base = build_layer("base", 50_000)
    image = Release("api", ("1.0", "1.0.0"), build_image([base, build_layer("api", 10_000)]))
    platforms = {name: build_image([base, build_layer(name, 9_000)]) for name in ("amd64", "arm64")}
    index = Release("web", ("1.0",), build_index(platforms))
    async with backend.registry("any") as registry, RegistryClient(registry.url) as client:
        pusher = choose_pusher(client, tmp_path, anonymous=kind is Skopeo)
        assert isinstance(pusher, kind)
        await pusher.push("acme/api", image)
        await pusher.push("acme/web", index)
        known = manifests("acme/api", image) | manifests("acme/web", index)

        pulled = await pull_everything(client, {"acme/api", "acme/web"}, known)
        assert pulled.faults == ()
        assert pulled.manifests.keys() == known
        assert recount(pulled) == stored([image, index])
        assert pulled.tags == {
            ("acme/api", "1.0"): format_digest(image.content.digest),
            ("acme/api", "1.0.0"): format_digest(image.content.digest),
            ("acme/web", "1.0"): format_digest(index.content.digest),
        }

        # An image that is gone altogether is no fault; an index that lost a child is.
        await client.delete_manifest("acme/api", image.content.digest)
        child = index.images[0].digest
        await client.delete_manifest("acme/web", child)
        damaged = await pull_everything(client, {"acme/api", "acme/web"}, known)
        assert damaged.tags.keys() == {("acme/web", "1.0")}
        (fault,) = damaged.faults
        assert fault.endswith(f"needs {format_digest(child)}, which is not there")
        assert recount(damaged) == stored(
            [replace(index, content=Index(index.content.manifest, index.images[1:]))]
        )
