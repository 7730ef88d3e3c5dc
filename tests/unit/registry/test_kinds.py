"""What real clients push, and what kind of thing it is."""

import pytest

from registry.kinds import (
    CACHE,
    IMAGE,
    Kind,
    artifact_type_of,
    is_cache_type,
    kind_of_index,
    kind_of_type,
    own_kind,
)
from registry.media_types import (
    BLOB,
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    DOCKER_SCHEMA1_SIGNED,
    OCI_ARTIFACT_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
)

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
HELM = "application/vnd.cncf.helm.config.v1+json"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"

PACKED = [
    # (config, layers, artifactType in the document, kind by the notification, kind by the document)
    (OCI_CONFIG, [GZIP], "", "image", "image"),
    (DOCKER_CONFIG, [DOCKER_GZIP], "", "image", "image"),
    (OCI_CONFIG, [], "", "image", "image"),
    (OCI_CONFIG, ["application/vnd.oci.image.layer.v1.tar+zstd"], "", "image", "image"),
    (OCI_CONFIG, ["application/vnd.oci.image.layer.nydus.blob.v1", GZIP], "", "image", "image"),
    (OCI_CONFIG, [f"{GZIP}+encrypted"], "", "image", "image"),
    (OCI_CONFIG, [BLOB], "", "image", "image"),
    (OCI_CONFIG, [GZIP], "application/vnd.example", "image", "image"),
    (CACHE_CONFIG, [GZIP, GZIP], "", "cache", "cache"),
    (HELM, ["application/vnd.cncf.helm.chart.content.v1.tar+gzip"], "", "chart", "chart"),
    (
        HELM,
        [
            "application/vnd.cncf.helm.chart.provenance.v1.prov",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ],
        "",
        "chart",
        "chart",
    ),
    (OCI_CONFIG, [SIMPLE], "", "signature", "signature"),
    (OCI_CONFIG, ["application/vnd.dsse.envelope.v1+json"], "", "attestation", "attestation"),
    (OCI_CONFIG, ["application/vnd.in-toto+json"], "", "attestation", "attestation"),
    (
        OCI_EMPTY,
        ["application/vnd.in-toto+json"],
        "application/vnd.in-toto+json",
        None,
        "attestation",
    ),
    (OCI_CONFIG, ["text/spdx+json"], "", "sbom", "sbom"),
    (OCI_CONFIG, ["application/vnd.cyclonedx+json"], "", "sbom", "sbom"),
    (OCI_CONFIG, ["application/vnd.syft+json"], "", "sbom", "sbom"),
    (OCI_EMPTY, ["application/spdx+json"], "application/spdx+json", None, "sbom"),
    (OCI_EMPTY, ["application/vnd.cyclonedx+xml"], "application/vnd.cyclonedx+xml", None, "sbom"),
    (OCI_EMPTY, ["x/y"], "application/vnd.example.sbom.v1", None, "sbom"),
    (
        OCI_EMPTY,
        ["application/vnd.dev.sigstore.bundle.v0.3+json"],
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        None,
        "attestation",
    ),
    (
        OCI_EMPTY,
        ["application/jose+json"],
        "application/vnd.cncf.notary.signature",
        None,
        "signature",
    ),
    ("application/vnd.cncf.notary.signature", ["application/cose"], "", "signature", "signature"),
    ("application/vnd.wasm.config.v0+json", ["application/wasm"], "", "wasm", "wasm"),
    ("application/vnd.wasm.config.v1+json", ["application/wasm"], "", "wasm", "wasm"),
    ("application/vnd.wasm.config.v0+json", ["x/y"], "application/wasm", "wasm", "wasm"),
    (OCI_CONFIG, ["application/vnd.w3c.wasm.component.layer.v0+wasm"], "", "wasm", "wasm"),
    (
        DOCKER_CONFIG,
        ["application/vnd.ollama.image.model", "application/vnd.ollama.image.license"],
        "",
        "artifact application/vnd.ollama.image.model",
        "artifact application/vnd.ollama.image.model",
    ),
    (
        "application/vnd.cncf.model.config.v1+json",
        ["application/vnd.cncf.model.weight.v1.tar"],
        "application/vnd.cncf.model.manifest.v1+json",
        None,
        "artifact application/vnd.cncf.model.manifest.v1+json",
    ),
    (
        "application/vnd.docker.ai.model.config.v0.1+json",
        ["application/vnd.docker.ai.gguf.v3"],
        "",
        None,
        "artifact application/vnd.docker.ai.model.config.v0.1+json",
    ),
    (
        "application/vnd.cncf.flux.config.v1+json",
        ["application/vnd.cncf.flux.content.v1.tar+gzip"],
        "",
        None,
        "artifact application/vnd.cncf.flux.config.v1+json",
    ),
    (OCI_EMPTY, ["text/plain"], "", None, f"artifact {OCI_EMPTY}"),
    (OCI_EMPTY, [OCI_EMPTY], "application/x", None, "artifact application/x"),
]


@pytest.mark.parametrize(("config", "layers", "declared", "told", "read"), PACKED)
def test_what_clients_push_is_of_its_kind_by_the_notification_or_by_the_document(
    config, layers, declared, told, read
):
    media_type = DOCKER_MANIFEST if config == DOCKER_CONFIG else OCI_MANIFEST
    for artifact_type, document_read, expected in (("", False, told), (declared, True, read)):
        kind = own_kind(
            media_type,
            config,
            artifact_type_of(config, layers, artifact_type),
            document_read=document_read,
        )
        assert (None if kind is None else str(kind)) == expected


def test_a_kind_never_changes_from_one_that_was_known_to_another():
    """What a notification tells stands: only what was not known is learned from the document."""
    for _config, _layers, _declared, told, read in PACKED:
        assert told in (None, read)


def test_formats_without_a_config():
    assert own_kind(DOCKER_SCHEMA1_SIGNED, "", "", document_read=False) == IMAGE
    assert own_kind(OCI_ARTIFACT_MANIFEST, "", "", document_read=False) is None
    assert str(
        own_kind(OCI_ARTIFACT_MANIFEST, "", "application/spdx+json", document_read=True)
    ) == ("sbom")
    strange = own_kind("application/vnd.example+json", "", "", document_read=True)
    assert strange == Kind("artifact", "application/vnd.example+json")
    assert own_kind("", "", "", document_read=False) is None


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_MANIFEST_LIST])
def test_an_index_is_what_it_says_or_what_its_entries_are(media_type):
    assert own_kind(media_type, CACHE_CONFIG, "", document_read=False) == CACHE
    assert own_kind(media_type, "", "application/vnd.example", document_read=True) == Kind(
        "artifact", "application/vnd.example"
    )
    assert own_kind(media_type, "", "", document_read=True) is None


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ([IMAGE, IMAGE], IMAGE),
        ([Kind("attestation"), IMAGE, None], IMAGE),
        ([Kind("attestation"), None], None),
        ([Kind("attestation"), Kind("chart")], Kind("chart")),
        ([Kind("wasm"), Kind("wasm")], Kind("wasm")),
        ([Kind("signature"), Kind("attestation")], Kind("signature")),
        ([CACHE], CACHE),
    ],
)
def test_the_entries_of_an_index_decide_in_any_order(entries, kind):
    for read in (False, True):
        assert kind_of_index(entries, OCI_INDEX, document_read=read) == kind
        if None not in entries:
            assert kind_of_index(reversed(entries), OCI_INDEX, document_read=read) in (
                kind,
                Kind("attestation"),
            )


def test_of_an_index_without_an_entry_that_exists_only_the_document_tells_that_it_is_no_cache():
    assert kind_of_index([], OCI_INDEX, document_read=False) is None
    assert kind_of_index([], OCI_INDEX, document_read=True) == Kind("artifact", OCI_INDEX)


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.unlikely-wasmtime+json", "application/vnd.spdxish", "text/plain", "a/sbomb"],
)
def test_a_word_inside_another_word_is_no_kind(media_type):
    assert kind_of_type(media_type) == Kind("artifact", media_type)


def test_a_cache_is_known_by_its_type():
    assert is_cache_type(CACHE_CONFIG)
    assert kind_of_type(CACHE_CONFIG) == CACHE
    assert not is_cache_type(GZIP)
