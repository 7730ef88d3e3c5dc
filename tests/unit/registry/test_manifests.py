import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import media_types
from registry.manifests import (
    ManifestError,
    might_be_referrer,
    parse_config_created,
    parse_manifest,
    signed_payload,
)
from registry.media_types import descriptor_kind
from registry.models import MAX_SIZE, Descriptor, ParsedManifest
from registry.names import format_digest, parse_digest
from registry.notifications import decode_event
from registry.push import build_image, build_index, build_layer, build_referrer
from tests.support.captures import Capture, captures_or_skip
from tests.support.fake_registry import signed_schema1

D1, D2 = "sha256:" + "11" * 32, "sha256:" + "22" * 32
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def descriptor(digest: str = D1, size: object = 1, **more: Any) -> dict[str, Any]:
    return {"mediaType": "a/b", "digest": digest, "size": size, **more}


def image(**changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": descriptor(D1, 10),
        "layers": [descriptor(D2, 20)],
    }
    return {key: value for key, value in (document | changes).items() if value is not ...}


def parse(document: object, media_type: str = media_types.OCI_MANIFEST) -> ParsedManifest:
    return parse_manifest(json.dumps(document).encode(), media_type)


def test_every_captured_manifest_says_what_its_json_says():
    seen = 0
    for capture in captures_or_skip():
        for digest, manifest in capture.manifests().items():
            document = json.loads(manifest.body)
            parsed = parse_manifest(manifest.body, manifest.media_type)
            assert hashlib.sha256(manifest.body).digest() == parse_digest(digest)
            assert parsed.media_type == manifest.media_type
            assert parsed.kind == ("index" if "manifests" in document else "image")
            expected = [document[key] for key in ("config",) if key in document]
            expected += document.get("layers", []) + document.get("manifests", [])
            assert [
                (format_digest(d.digest), d.size, d.media_type, d.has_urls)
                for d in parsed.references
            ] == [
                (entry["digest"], entry["size"], entry["mediaType"], "urls" in entry)
                for entry in expected
            ]
            subject = document.get("subject")
            assert (parsed.subject and format_digest(parsed.subject)) == (
                subject and subject["digest"]
            )
            assert parsed.artifact_type == document.get("artifactType")
            assert parse_manifest(manifest.body) == parsed
            seen += 1
    assert seen > 500


def test_a_manifest_refers_to_what_its_notification_lists():
    seen = 0
    for capture in captures_or_skip():
        manifests = capture.manifests()
        for raw in capture.raw_events():
            event = decode_event(raw)
            if event.references is None or event.digest is None:
                continue
            manifest = manifests.get(format_digest(event.digest))
            if manifest is not None:
                parsed = parse_manifest(manifest.body, manifest.media_type)
                assert parsed.references == event.references
                seen += 1
    assert seen > 300


def bytes_held(capture: Capture) -> dict[str, int] | None:
    """Workspace → bytes of the distinct digests of every manifest held, from the manifests alone."""
    manifests = capture.manifests()
    held: dict[str, dict[bytes, int]] = {}
    for repository, content in capture.truth()["repositories"].items():
        sizes = held.setdefault(repository.partition("/")[0], {})
        for digest in content["manifests"]:
            if digest not in manifests:
                return None
            manifest = manifests[digest]
            parsed = parse_manifest(manifest.body, manifest.media_type)
            sizes[parse_digest(digest)] = len(manifest.body)
            if parsed.kind == "image":
                sizes.update({d.digest: d.size for d in parsed.references if not d.has_urls})
    return {workspace: sum(sizes.values()) for workspace, sizes in held.items()}


def test_the_manifests_held_add_up_to_the_truth_of_the_storage():
    seen = 0
    for capture in captures_or_skip():
        truth = {
            workspace: content["bytes"]["c_workspace_dedup_all"]
            for workspace, content in capture.truth()["workspaces"].items()
        }
        held = bytes_held(capture)
        assert held is not None, f"{capture}: a manifest of the truth was not kept"
        assert held == truth, str(capture)
        seen += 1
    assert seen > 100


def test_kinds_follow_the_media_type_that_the_registry_answered():
    index = {"manifests": [descriptor()]}
    assert parse(index, media_types.OCI_INDEX).kind == "index"
    assert parse(index, media_types.DOCKER_MANIFEST_LIST).kind == "index"
    assert parse(image(), media_types.DOCKER_MANIFEST).kind == "image"
    assert parse(image(), media_types.OCI_MANIFEST + "; charset=utf-8").kind == "image"
    assert parse(image(), "").media_type == media_types.OCI_MANIFEST


@pytest.mark.parametrize("media_type", ["application/vnd.foo.manifest+json", "x/y"])
def test_what_is_not_understood_is_unknown_and_not_empty(media_type):
    assert parse_manifest(b"not even JSON", media_type).kind == "unknown"


@pytest.mark.parametrize("says_nothing", ["", "application/json", "text/plain; charset=utf-8"])
def test_where_a_server_knows_no_manifests_the_document_and_then_the_event_say_what_it_is(
    says_nothing,
):
    document = json.dumps(image()).encode()
    assert parse_manifest(document, says_nothing).media_type == media_types.OCI_MANIFEST
    untyped = json.dumps({**image(), "mediaType": None}).encode()
    assert parse_manifest(untyped, says_nothing).kind == "unknown"
    known = parse_manifest(untyped, says_nothing, media_types.DOCKER_MANIFEST)
    assert (known.kind, known.media_type) == ("image", media_types.DOCKER_MANIFEST)


def test_schema_1_tells_layers_without_sizes_and_only_what_its_digest_vouches_for_counts():
    layer = "sha256:" + "ab" * 32
    body, digest = signed_schema1(layer, layer)
    assert hashlib.sha256(signed_payload(body)).digest() == digest
    parsed = parse_manifest(body, media_types.DOCKER_SCHEMA1_SIGNED)
    assert parsed.kind == "image"
    assert [(item.digest, item.size) for item in parsed.references] == [(b"\xab" * 32, 0)] * 2
    plain = signed_payload(body)
    assert parse_manifest(plain, media_types.DOCKER_SCHEMA1).layers == parsed.layers


@pytest.mark.parametrize(
    "body",
    [
        b"not even JSON",
        b"{}",
        b'{"signatures": []}',
        b'{"signatures": [{"protected": "!"}]}',
        b'{"signatures": [{"protected": "e30"}]}',
        b'{"signatures": [{"protected": "eyJmb3JtYXRMZW5ndGgiOjk5LCJmb3JtYXRUYWlsIjoiIn0"}]}',
        b'{"signatures": [{"protected": "\xc3\xa9"}]}',
        b"[" * 100_000,
    ],
)
def test_a_hostile_schema_1_document_is_refused(body):
    with pytest.raises(ManifestError):
        parse_manifest(body, media_types.DOCKER_SCHEMA1_SIGNED)


def test_a_document_that_names_no_type_is_unknown():
    assert parse_manifest(b"{}").kind == "unknown"


def test_nested_indexes_and_referring_indexes_are_read():
    parsed = parse(
        {
            "manifests": [descriptor(D1, 5, mediaType=media_types.OCI_INDEX)],
            "subject": descriptor(D2),
            "artifactType": "x/y",
        },
        media_types.OCI_INDEX,
    )
    assert parsed.children == (Descriptor(parse_digest(D1), 5, media_types.OCI_INDEX),)
    assert parsed.subject == parse_digest(D2)
    assert parsed.artifact_type == "x/y"


@pytest.mark.parametrize(
    "media_type", [media_types.OCI_ARTIFACT_MANIFEST, media_types.ORAS_ARTIFACT_MANIFEST]
)
def test_old_artifact_manifests_are_images_without_a_config(media_type):
    parsed = parse({"blobs": [descriptor(D1, 7)], "subject": descriptor(D2)}, media_type)
    assert (parsed.kind, parsed.config) == ("image", None)
    assert parsed.references == (Descriptor(parse_digest(D1), 7, "a/b"),)
    assert parsed.subject == parse_digest(D2)


def test_repeated_layers_stay_repeated_and_null_layers_are_none():
    layers = [descriptor(D2, 20)] * 3
    assert len(parse(image(layers=layers)).layers) == 3
    assert parse(image(layers=None)).layers == ()
    assert parse(image(layers=...)).layers == ()


@pytest.mark.parametrize(("urls", "told"), [(["https://a/"], True), ([], False), (None, False)])
@pytest.mark.parametrize("media_type", ["application/vnd.oci.image.layer.v1.tar+zstd", "x/y", None])
def test_a_descriptor_tells_whether_it_has_urls_whatever_it_is(media_type, urls, told):
    [layer] = parse(image(layers=[descriptor(D2, 3, mediaType=media_type, urls=urls)])).layers
    assert layer.has_urls is told


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        ("application/vnd.oci.image.layer.v1.tar", "blob"),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "blob"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "blob"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "blob"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "blob"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "blob"),
        ("application/vnd.buildkit.cacheconfig.v0", "blob"),
        ("application/vnd.oci.image.config.v1+json", "blob"),
        ("application/vnd.docker.container.image.v1+json", "blob"),
        ("application/vnd.oci.empty.v1+json", "blob"),
        ("application/octet-stream", "blob"),
        ("application/vnd.oci.image.manifest.v1+json", "manifest"),
        ("application/vnd.oci.image.index.v1+json", "manifest"),
        ("application/vnd.docker.distribution.manifest.v2+json", "manifest"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", "manifest"),
        ("application/vnd.oci.artifact.manifest.v1+json", "manifest"),
        ("application/vnd.oci.image.layer", "unknown"),
        ("application/vnd.oci.image.manifest.v2+json", "unknown"),
        ("application/json", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_media_type_says_what_a_descriptor_names(media_type, kind):
    assert descriptor_kind(media_type) == kind


@pytest.mark.parametrize(
    "spelling", [("Layers", "Size"), ("LAYERS", "\N{LATIN SMALL LETTER LONG S}ize")]
)
def test_keys_are_read_as_the_registrys_own_decoder_reads_them(spelling):
    layers, size = spelling
    document = image(layers=..., **{layers: [{"Digest": D2, size: 20, "mediatype": "a/b"}]})
    assert parse(document).layers == (Descriptor(parse_digest(D2), 20, "a/b"),)


def test_a_key_twice_in_different_spelling_is_refused():
    with pytest.raises(ManifestError, match="twice"):
        parse(image(Layers=[]))


@pytest.mark.parametrize(("declared", "taken"), [(-5, 0), (2**63, MAX_SIZE), (None, 0)])
def test_impossible_sizes_are_bounded_so_that_the_image_is_still_counted(declared, taken):
    [layer] = parse(image(layers=[descriptor(D2, declared)])).layers
    assert layer.size == taken


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "format"),
        ([], "format"),
        ("x", "format"),
        (image(config=...), "no config"),
        (image(config=None), "no config"),
        (image(config=7), "format"),
        (image(layers={}), "format"),
        (image(layers=[None]), "format"),
        (image(layers=[7]), "format"),
        (image(layers=[descriptor("sha256:12")]), "digest"),
        (image(layers=[{"size": 1}]), "digest"),
        (image(layers=[descriptor(D1, "1")]), "format"),
        (image(layers=[descriptor(D1, 1.5)]), "format"),
        (image(layers=[descriptor(D1, 1, urls="x")]), "format"),
        (image(subject={}), "digest"),
        (image(subject=descriptor("x")), "digest"),
        (image(artifactType=7), "format"),
    ],
)
def test_a_document_that_is_not_what_its_type_says_is_refused(document, reason):
    with pytest.raises(ManifestError, match=reason):
        parse(document)


def test_an_image_that_calls_itself_an_index_is_refused():
    with pytest.raises(ManifestError, match="index has layers"):
        parse(image(), media_types.OCI_INDEX)
    with pytest.raises(ManifestError, match="in place of blobs"):
        parse(image(), media_types.OCI_ARTIFACT_MANIFEST)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b'{"layers": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"layers": ' + b'{"a":' * 100_000,
        b'{"config": 1e999}',
    ],
)
def test_hostile_bytes_end_in_one_kind_of_error(body):
    with pytest.raises(ManifestError):
        parse_manifest(body, media_types.OCI_MANIFEST)


@given(st.binary(max_size=300), st.sampled_from([*media_types.ACCEPTED, ""]))
def test_random_bytes_never_break_the_reader(body, media_type):
    try:
        parse_manifest(body, media_type)
    except ManifestError:
        return


def test_a_large_manifest_is_read():
    parsed = parse(image(layers=[descriptor(D2, 1)] * 20_000))
    assert len(parsed.layers) == 20_000


def test_images_that_we_build_are_read_back():
    amd = build_image([build_layer("base", 3_000), build_layer("app", 1_000)])
    index = build_index({"amd64": amd, "arm64": build_image([build_layer("arm", 500)])})
    signature = build_referrer(amd.manifest)
    parsed = parse_manifest(amd.manifest.content, media_types.OCI_MANIFEST)
    assert [d.digest for d in parsed.references] == [blob.digest for blob in amd.blobs]
    assert [d.size for d in parsed.references] == [len(blob.content) for blob in amd.blobs]
    children = parse_manifest(index.manifest.content).children
    assert [child.digest for child in children] == [image.digest for image in index.images]
    assert parse_manifest(signature.manifest.content).subject == amd.digest


@pytest.mark.parametrize(
    ("body", "created"),
    [
        (
            b'{"created": "2024-05-06T07:08:09.123456789Z"}',
            datetime(2024, 5, 6, 7, 8, 9, 123456, UTC),
        ),
        (
            b'{"created": "2024-05-06T09:08:09+02:00", "x": 1}',
            datetime(2024, 5, 6, 7, 8, 9, 0, UTC),
        ),
        (b'{"created": "2000-01-01T00:00:00Z"}', datetime(2000, 1, 1, tzinfo=UTC)),
        (b'{"created": "2026-11-23T00:00:00Z"}', NOW),
        (b'{"created": "2026-11-23T00:00:01Z"}', None),
        (b'{"created": "1999-12-31T23:59:59Z"}', None),
        (b'{"created": "1970-01-01T00:00:00Z"}', None),
        (b'{"created": "0001-01-01T00:00:00Z"}', None),
        (b'{"created": "yesterday"}', None),
        (b'{"created": null}', None),
        (b'{"created": 5}', None),
        (b"{}", None),
        (b"[]", None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
)
def test_a_build_time_counts_only_when_it_can_be_believed(body, created):
    assert parse_config_created(body, NOW) == created


@pytest.mark.parametrize(
    ("media_type", "config", "tagged", "expected"),
    [
        (media_types.DOCKER_MANIFEST, media_types.DOCKER_CONFIG, False, False),
        (media_types.DOCKER_MANIFEST_LIST, None, False, False),
        (media_types.OCI_MANIFEST, media_types.OCI_CONFIG, True, False),
        (media_types.OCI_MANIFEST, media_types.OCI_CONFIG, False, True),
        (media_types.OCI_MANIFEST, media_types.OCI_EMPTY, True, True),
        (media_types.OCI_MANIFEST, "application/spdx+json", True, True),
        (media_types.OCI_MANIFEST, None, True, True),
        (media_types.OCI_INDEX, None, True, False),
        (media_types.OCI_INDEX, None, False, True),
        (media_types.OCI_ARTIFACT_MANIFEST, None, True, True),
        ("application/x-unheard-of", None, True, True),
    ],
)
def test_what_might_be_a_referrer_has_to_be_read(media_type, config, tagged, expected):
    assert might_be_referrer(media_type, config, tagged=tagged) is expected
