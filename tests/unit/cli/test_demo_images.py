"""The demo's images are what its story needs, whatever the seed."""

import hashlib
import json

import pytest

from cli.demo.images import ANNOUNCED_BYTES, QUOTA_BYTES, Builder, Release
from cli.demo.push import write_layout
from registry.push import Index


@pytest.fixture(scope="module")
def releases() -> list[Release]:
    return list(Builder("seed").releases())


def stored(releases: list[Release]) -> int:
    """Bytes of the distinct digests."""
    blobs = [blob for release in releases for blob in release.manifests]
    blobs += [blob for release in releases for image in release.images for blob in image.blobs]
    return sum({blob.digest: len(blob.content) for blob in blobs}.values())


def test_exactly_the_last_release_crosses_the_threshold(releases):
    assert stored(releases[:-1]) < QUOTA_BYTES * 80 // 100 - 100_000
    assert QUOTA_BYTES * 80 // 100 + 100_000 < stored(releases) < QUOTA_BYTES


def test_there_is_everything_that_cleanup_has_to_cope_with(releases):
    assert len({release.app for release in releases}) >= 3
    assert any(len(release.tags) > 1 for release in releases)
    assert any(isinstance(r.content, Index) and len(r.images) == 2 for r in releases)
    nightly = [r.content.digest for r in releases if r.tags == ("nightly",)]
    assert len(set(nightly)) == 2
    layers = [{blob.digest for blob in image.layers} for r in releases for image in r.images]
    assert set.intersection(*layers), "no layer is shared by all"


def test_the_next_build_brings_less_than_it_announces(releases):
    brought = stored([*releases, Builder("seed").next_release()]) - stored(releases)
    assert 0 < brought < ANNOUNCED_BYTES


def test_the_seed_alone_decides_every_byte(releases):
    again = next(Builder("seed").releases())
    other = next(Builder("another").releases())
    assert again.content.digest == releases[0].content.digest
    assert not {blob.digest for blob in other.images[0].blobs} & {
        blob.digest for blob in again.images[0].blobs
    }


def test_a_layout_names_the_release_and_holds_all_of_it(tmp_path, releases):
    index = next(release for release in releases if isinstance(release.content, Index))
    for release in (releases[0], index):
        write_layout(tmp_path, release.content)
        (named,) = json.loads((tmp_path / "index.json").read_text())["manifests"]
        assert named == release.content.manifest.descriptor
        needed = [*release.manifests, *(b for image in release.images for b in image.blobs)]
        for blob in needed:
            path = tmp_path / "blobs" / "sha256" / blob.digest.hex()
            assert hashlib.sha256(path.read_bytes()).digest() == blob.digest
