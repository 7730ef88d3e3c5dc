import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.names import (
    InvalidDigest,
    InvalidName,
    check_repository,
    check_tag,
    format_digest,
    parse_digest,
)

# The reference package's expression, as it is written there.
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
REFERENCE = re.compile(rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*")


@pytest.mark.parametrize(
    "name",
    [
        "single",
        "acme/web",
        "acme/tags/list",
        "acme/blobs/app",
        "acme/manifests/app",
        "Acme/app",
        "localhost:5000/app",
        "Registry.Example.COM:443/a/b",
        "[::1]:5000/app",
        "a--b/c__d.e_f",
        "0/1",
        "a/" + "b" * 253,
    ],
)
def test_names_that_a_registry_takes_are_taken(name):
    assert check_repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "a/..",
        ".a",
        "a.",
        "a..b",
        "a___b",
        "a-/b/-c",
        "acme/Web",
        "Acme",
        "a b",
        "a%2fb",
        "a\\b",
        "a\x00b",
        "a/b\n",
        "a/b\x00",
        "acmé/web",
        "acme/\N{ARABIC-INDIC DIGIT ONE}",
        "a?b",
        "a#b",
        "a@sha256:00",
        "a/" + "b" * 254,
        "a" * 100_000,
    ],
)
def test_names_outside_the_grammar_are_refused_with_words(name):
    with pytest.raises(InvalidName, match="repository name") as caught:
        check_repository(name)
    assert len(str(caught.value)) < 800
    assert str(caught.value).isprintable()


@given(st.text(alphabet="aA0._-:/[]", max_size=24))
def test_the_name_grammar_is_the_reference_packages(name):
    expected = REFERENCE.fullmatch(name) is not None
    try:
        check_repository(name)
    except InvalidName:
        assert not expected
    else:
        assert expected


@pytest.mark.parametrize(
    "tag", ["1", "latest", "1.2.3", "_x", "A" * 128, "sha256-" + "0" * 64 + ".sig"]
)
def test_tags_that_a_registry_takes_are_taken(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag", ["", ".x", "-x", "a/b", "a:b", "a b", "a\x00", "1\n", "é", "A" * 129]
)
def test_tags_outside_the_grammar_are_refused(tag):
    with pytest.raises(InvalidName, match="tag"):
        check_tag(tag)


@given(st.sampled_from([("sha256", 32), ("sha384", 48), ("sha512", 64)]), st.data())
def test_a_digest_survives_the_way_to_bytes_and_back(algorithm, data):
    name, size = algorithm
    raw = data.draw(st.binary(min_size=size, max_size=size))
    text = f"{name}:{raw.hex()}"
    assert parse_digest(text) == raw
    assert format_digest(raw) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        "sha256:12",
        "sha256:" + "ab" * 31,
        "sha256:" + "ab" * 33,
        "sha256:" + "AB" * 32,
        "sha256:" + "a" * 63 + "B",
        "SHA256:" + "ab" * 32,
        "sha256:" + "zz" * 32,
        "sha256:" + " a" * 32,
        "sha256:" + "ab" * 31 + "a\n",
        "sha256:" + "ab" * 31 + "a\x00",
        "sha256:" + "é" * 64,
        "sha256:" + "\N{ARABIC-INDIC DIGIT ONE}" * 64,
        "sha512:" + "ab" * 32,
        "md5:" + "ab" * 16,
        "sha256-" + "ab" * 32,
        " sha256:" + "ab" * 32,
        "sha256:../../" + "a" * 58,
    ],
)
def test_what_is_no_digest_is_refused_with_words(text):
    with pytest.raises(InvalidDigest, match="digest"):
        parse_digest(text)


@pytest.mark.parametrize("size", [0, 16, 20, 31, 33, 65])
def test_only_known_lengths_are_written_as_digests(size):
    with pytest.raises(InvalidDigest, match="32, 48 or 64"):
        format_digest(bytes(size))
