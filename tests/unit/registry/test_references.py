"""References as people, kubectl and runtimes write them."""

import re
from pathlib import Path

import pytest

from registry.names import InvalidDigest
from registry.references import digest_of, split_references

HEX = "4d5e2a1b90f3c6877a1d2c3b4e5f60718293a4b5c6d7e8f90112233445566778"
RECIPE = Path(__file__).parents[3] / "docs" / "leases.md"


@pytest.mark.parametrize(
    "reference",
    [
        f"sha256:{HEX}",
        f"acme/api@sha256:{HEX}",
        f"registry.example.com:5000/acme/api:1.2@sha256:{HEX}",
        f"docker-pullable://registry.example.com/acme/api@sha256:{HEX}",
        f"docker://sha256:{HEX}",
        f"containerd://sha256:{HEX}",
    ],
)
def test_every_way_of_naming_a_digest_is_understood(reference):
    assert digest_of(reference) == bytes.fromhex(HEX)


@pytest.mark.parametrize(
    "reference", ["nginx", "nginx:1.2", "localhost:5000/acme/api", "docker://nginx:latest"]
)
def test_a_tag_names_no_digest(reference):
    assert digest_of(reference) is None


@pytest.mark.parametrize(
    "reference",
    ["sha256:12", f"acme/api@sha256:{HEX.upper()}", "acme/api@", f"sha256:{HEX}0", "a@md5:00"],
)
def test_what_looks_like_a_digest_and_is_none_is_told(reference):
    with pytest.raises(InvalidDigest, match=re.escape(reference[:20])):
        digest_of(reference)


def test_references_stand_between_white_space_commas_and_quotes():
    assert split_references('["a@b", "c"]\n\n d\te,f') == ["a@b", "c", "d", "e", "f"]
    assert split_references(" \n") == []


def test_what_the_recipe_for_kubernetes_prints_is_understood():
    (printed,) = re.findall(r"```text\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    digests = [digest_of(reference) for reference in split_references(printed)]
    assert len(digests) == 4
    assert None not in digests
