import hmac

import pytest

from webhook_receiver.auth import Tokens

TOKENS = Tokens({"old-secret": "default", "new-secret": "default", "edge-secret": "edge"})


@pytest.mark.parametrize(
    ("header", "registry"),
    [
        ("Bearer old-secret", "default"),
        ("Bearer new-secret", "default"),
        ("Bearer edge-secret", "edge"),
        ("bearer edge-secret", "edge"),
        ("BEARER   edge-secret  ", "edge"),
        ("  Bearer edge-secret", "edge"),
    ],
)
def test_every_active_token_proves_its_registry(header, registry):
    assert TOKENS.registry_of([header]) == registry


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearer  \t "],
        ["old-secret"],
        ["Basic old-secret"],
        ["Token old-secret"],
        ["Bearerold-secret"],
        ["Bearer\told-secret"],
        ["Bearer Old-Secret"],
        ["Bearer old-secre"],
        ["Bearer old-secrett"],
        ["Bearer old-secret,new-secret"],
        ["Bearer old-secret new-secret"],
        ["Bearer \udcff\udcfe"],
        ["Bearer ôld-secret"],
        ["Bearer old-secret", "Bearer old-secret"],
        ["Bearer wrong", "Bearer old-secret"],
        ["Bearer old-secret", ""],
    ],
)
def test_nothing_else_proves_anything(headers):
    assert TOKENS.registry_of(headers) is None


def test_a_token_beyond_ascii_is_compared_by_its_bytes():
    tokens = Tokens({"schlüssel": "default"})
    assert tokens.registry_of(["Bearer schlüssel"]) == "default"
    assert tokens.registry_of(["Bearer schlussel"]) is None


@pytest.mark.parametrize("registries", [{}, {"": "default"}, {"good": "default", "": "edge"}])
def test_without_a_secret_there_is_no_door(registries):
    with pytest.raises(ValueError, match="token"):
        Tokens(registries)


def test_every_token_is_compared_in_constant_time_whatever_matched_first(monkeypatch):
    compared = []

    def spy(active: bytes, given: bytes) -> bool:
        compared.append(active)
        return active == given

    monkeypatch.setattr(hmac, "compare_digest", spy)
    TOKENS.registry_of(["Bearer old-secret"])
    assert compared == [b"old-secret", b"new-secret", b"edge-secret"]
