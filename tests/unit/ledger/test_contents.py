"""What an index is by its entries, told by a notification and read from its document alike."""

import json
from itertools import permutations

import pytest

from ledger.contents import content_of_manifest, content_of_references
from registry.manifests import parse_manifest
from registry.media_types import OCI_INDEX, OCI_MANIFEST
from registry.names import format_digest

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"


@pytest.mark.parametrize(
    ("entries", "cache"),
    [
        ([LAYER, LAYER, CACHE_CONFIG], True),
        ([CACHE_CONFIG], True),
        ([LAYER], False),
        ([OCI_MANIFEST], False),
        # An image may be what somebody runs, whatever stands beside it.
        ([OCI_MANIFEST, CACHE_CONFIG], False),
        ([LAYER, OCI_INDEX, CACHE_CONFIG], False),
    ],
)
def test_an_index_is_a_cache_by_itself_only_where_it_can_hold_no_image(entries, cache):
    for types in permutations(entries):
        named = [
            {"mediaType": kind, "digest": format_digest(bytes([number]) * 32), "size": 9}
            for number, kind in enumerate(types)
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": named}
        parsed = parse_manifest(json.dumps(document).encode(), OCI_INDEX)
        for content in (
            content_of_manifest(parsed),
            content_of_references(OCI_INDEX, parsed.references),
        ):
            assert content is not None
            assert content.config_media_type == (CACHE_CONFIG if cache else "")
