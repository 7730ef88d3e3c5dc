"""Tags that name what their manifest belongs to: one grammar, the same in Python and in Postgres."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.following import (
    DIGEST_TAG,
    all_tags_named_by,
    may_follow,
    subject_of,
    subject_of_tag,
    tags_named_by,
)
from registry.kinds import CACHE, IMAGE, Kind

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom", ".cosign.sig", ".x-1_2"])
@pytest.mark.parametrize(
    ("algorithm", "hexes"),
    [
        ("sha256", HEX),
        ("sha384", HEX),
        ("sha384", HEX + HEX[:32]),
        ("sha512", HEX),
        ("sha512", HEX + HEX),
    ],
)
def test_a_tag_names_a_digest_by_its_first_digits_or_by_all(algorithm, hexes, suffix):
    length = {"sha256": 32, "sha384": 48, "sha512": 64}[algorithm]
    assert subject_of_tag(f"{algorithm}-{hexes}{suffix}") == (length, bytes.fromhex(HEX))


@pytest.mark.parametrize(
    "tag",
    [
        "sha256",
        "sha256-release",
        f"sha256-{HEX[:-1]}",
        f"sha256-{HEX}0",
        f"sha256-{HEX.upper()}",
        f"sha256-{HEX}.",
        f"sha256-{HEX}-sig",
        f"sha256-{HEX}.sig\n",
        f"x-sha256-{HEX}.sig",
        f"sha384-{HEX}00",
        f"md5-{HEX}",
        "latest",
    ],
)
def test_a_tag_that_people_chose_names_no_digest(tag):
    assert subject_of_tag(tag) is None


@given(st.binary(min_size=32, max_size=32) | st.binary(min_size=64, max_size=64))
def test_every_digest_is_found_by_the_tag_that_names_it(digest):
    algorithm = {32: "sha256", 64: "sha512"}[len(digest)]
    assert subject_of_tag(f"{algorithm}-{digest.hex()}.sig") == subject_of(digest)
    assert subject_of_tag(f"{algorithm}-{digest.hex()[:64]}") == subject_of(digest)


@given(st.from_regex(r"(sha(256|384|512)-)?[0-9a-f]{60,66}(\.[a-z.-]{0,4})?", fullmatch=True))
def test_postgres_and_python_read_one_pattern(tag):
    assert (re.fullmatch(DIGEST_TAG, tag) is not None) is (subject_of_tag(tag) is not None)


@pytest.mark.parametrize(
    ("tag", "named"),
    [
        ("1.4-sbom", ["1.4"]),
        ("1.4.sbom", ["1.4"]),
        ("v1-rc.1-att", ["v1-rc.1"]),
        ("1.4-sbom-sig", ["1.4-sbom", "1.4"]),
        ("latest-signature", ["latest"]),
        ("1.4-provenance.sig", ["1.4-provenance", "1.4"]),
        ("sbom", []),
        ("-sbom", []),
        ("1.4-sboms", []),
        ("1.4sbom", []),
        ("1.4-debug", []),
        (f"sha256-{'0' * 64}.sig", []),
        (f"sha256-{'0' * 64}.sig-sbom", []),
        (f"sha256-{'0' * 63}.sig", [f"sha256-{'0' * 63}"]),
    ],
)
def test_a_tag_names_another_tag_by_convention(tag, named):
    assert list(tags_named_by(tag)) == named
    assert all_tags_named_by([tag, "x"]) == named


def test_only_what_is_about_something_follows_a_tag():
    following = [Kind("sbom"), Kind("signature"), Kind("attestation"), Kind("artifact", "x/y")]
    assert all(map(may_follow, following))
    assert not any(map(may_follow, [IMAGE, CACHE, Kind("chart"), Kind("wasm"), None]))
