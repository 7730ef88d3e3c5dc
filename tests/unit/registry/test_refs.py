"""Names of images as people write them."""

import pytest

from registry.refs import ImageName, parse_image_name

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/api:1.2", ImageName("acme/api", tag="1.2")),
        (f"acme/api@sha256:{HEX}", ImageName("acme/api", digest=bytes.fromhex(HEX))),
        (f"sha256:{HEX}", ImageName(None, digest=bytes.fromhex(HEX))),
    ],
)
def test_a_name_is_a_repository_with_a_tag_or_a_digest_or_a_digest(text, expected):
    assert parse_image_name(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "acme/api", "acme/api:", ":1", "acme//api:1", "a/b@sha256:12", "sha256:zz", "a:b/c"],
)
def test_anything_else_is_refused_with_words(text):
    with pytest.raises(ValueError, match="image"):
        parse_image_name(text)
