import hashlib
import tarfile
from io import BytesIO

import pytest

from registry.manifests import parse_manifest
from registry.push import build_image, build_index, build_layer, build_referrer


@pytest.mark.parametrize("size", [1_000, 10_000, 300_000])
def test_a_layer_has_about_the_wanted_size_and_is_a_real_archive(size):
    layer = build_layer("x", size)
    assert abs(len(layer.content) - size) < max(1024, size / 100)
    with tarfile.open(fileobj=BytesIO(layer.content), mode="r:gz") as archive:
        assert archive.getnames() == ["layer.bin"]


def test_the_same_arguments_give_the_same_digests():
    def build() -> bytes:
        layers = [build_layer("base", 2_000), build_layer("app", 1_000)]
        return build_index({"amd64": build_image(layers, label="x")}).digest

    assert build() == build()
    assert build_layer("a", 2_000).digest != build_layer("b", 2_000).digest


def test_images_share_layers_and_a_label_tells_them_apart():
    base = build_layer("base", 2_000)
    one, two = build_image([base], label="1"), build_image([base], label="2")
    assert one.digest != two.digest
    assert one.layers == two.layers


def test_a_manifest_is_named_by_the_digest_of_its_bytes():
    image = build_image([build_layer("base", 2_000)])
    assert image.digest == hashlib.sha256(image.manifest.content).digest()
    referrer = build_referrer(image.manifest, artifact_type="application/x")
    parsed = parse_manifest(referrer.manifest.content)
    assert (parsed.subject, parsed.artifact_type) == (image.digest, "application/x")
