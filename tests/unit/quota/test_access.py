"""Who may do what: scopes, workspaces, and secrets that are exchanged."""

import pytest

from quota.access import SCOPES, Principal, any_of, internal_keys, operator_tokens
from runtime.settings import Settings, SettingsError


def test_admin_implies_the_other_scopes_and_nothing_else_implies_any():
    for granted in SCOPES:
        principal = Principal("p", frozenset({granted}))
        assert {scope for scope in SCOPES if principal.has(scope)} == (
            set(SCOPES) if granted == "admin" else {granted}
        )


def test_workspaces_restrict_and_none_means_all():
    tenant = Principal("p", frozenset({"read"}), frozenset({"acme"}))
    assert tenant.may("read", "acme")
    assert not tenant.may("read", "other")
    assert not tenant.may("read", None)
    assert tenant.covers(["acme"])
    assert not tenant.covers(["acme", "other"])
    assert not tenant.covers(None)
    everybody = Principal("p", frozenset({"read"}))
    assert everybody.may("read", "anything")
    assert everybody.may("read", None)
    assert everybody.covers(None)


async def test_each_of_the_operators_tokens_is_good_and_no_part_of_one():
    authenticate = any_of(operator_tokens(("first", "second")), internal_keys(("key",)))
    for token, name in (("first", "operator"), ("second", "operator"), ("key", "internal")):
        principal = await authenticate(token)
        assert principal is not None
        assert principal.name == name
        assert principal.workspaces is None
    for wrong in ("", "firs", "firstsecond", "first,second", "ke", "\udcff"):
        assert await authenticate(wrong) is None


async def test_the_internal_key_is_no_admin():
    principal = await internal_keys(("key",))("key")
    assert principal is not None
    assert principal.scopes == {"read", "hook", "write"}


def test_two_secrets_stand_side_by_side_while_one_replaces_the_other():
    settings = Settings(api_token="old, new", internal_api_key="one\ntwo")
    assert settings.required_api_tokens() == ("old", "new")
    assert settings.required_api_token() == "old"
    assert settings.required_internal_api_keys() == ("one", "two")


@pytest.mark.parametrize("text", [None, "", "  ", ",", "a,", ",a"])
def test_no_or_an_empty_secret_opens_no_door(text):
    settings = Settings(api_token=text, internal_api_key=text)
    with pytest.raises(SettingsError, match="RQ_API_TOKEN"):
        settings.required_api_tokens()
    with pytest.raises(SettingsError, match="RQ_INTERNAL_API_KEY"):
        settings.required_internal_api_keys()
