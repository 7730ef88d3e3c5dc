"""A name that nobody knows here is taken, and said to be unknown, with names that the caller may see."""

import pytest

from tests.support.ledger_images import pushed

HOOK = "/v1/hooks/pre-build"


@pytest.fixture
async def known(api):
    """Workspaces `acme` with the apps `api` and `sub/web`, and `acme-secret`; `empty` is configured."""
    now = api.clock()
    for repository in ("acme/api", "acme/sub/web", "acme-secret/api"):
        await api.recorder.record([pushed(repository, "1", [(repository, 1000)])], now=now)
    await api.call("PATCH", "/v1/workspaces/empty", {"quota_bytes": 10**9})
    return api


async def warnings(api, token=None, **build):
    options = {} if token is None else {"token": token}
    status, answer = await api.call("POST", HOOK, build, **options)
    assert (status, answer["decision"]) == (200, "proceed")
    return [warning for warning in answer["warnings"] if warning != "incoming_unknown"]


async def test_the_hook_says_that_a_workspace_was_never_seen_and_which_ones_are_near(known):
    (warning,) = await warnings(known, workspace="Acme", app="api", build_id="1")
    assert warning.startswith(
        "unknown_workspace: Acme is unknown here: nothing was ever pushed to it"
    )
    assert warning.endswith("; did you mean acme or acme-secret?")
    # Its reservation is no sign of it.
    assert await warnings(known, workspace="Acme", app="api", build_id="1") == [warning]
    (warning,) = await warnings(known, workspace="unlike-all-others")
    assert "did you mean" not in warning


async def test_the_hook_says_that_an_app_was_never_seen_and_which_ones_are_near(known):
    (warning,) = await warnings(known, workspace="acme", app="web")
    assert warning == (
        "unknown_app: web is unknown in acme: nothing was ever pushed to such an app; "
        "did you mean sub/web?"
    )
    assert await warnings(known, workspace="acme", app="api") == []
    assert await warnings(known, workspace="acme") == []


async def test_a_workspace_that_somebody_configured_is_known_before_its_first_image(known):
    assert await warnings(known, workspace="empty") == []


async def test_an_app_is_looked_up_until_it_has_been_seen_and_not_once_more(known, monkeypatch):
    from ledger import names

    asked = []
    apps_like = names.apps_like

    async def counting(*arguments):
        asked.append(arguments[2])
        return await apps_like(*arguments)

    monkeypatch.setattr(names, "apps_like", counting)
    for app in ("api", "api", "new", "new"):
        await warnings(known, workspace="acme", app=app)
    await known.recorder.record([pushed("acme/new", "1", [("n", 1)])], now=known.clock())
    assert await warnings(known, workspace="acme", app="new") == []
    assert await warnings(known, workspace="acme", app="new") == []
    assert asked == ["api", "new", "new", "new"]


async def test_no_caller_hears_of_workspaces_that_its_token_is_not_good_for(known):
    token = await known.token("hook", workspaces=["acme", "acmee"])
    (warning,) = await warnings(known, token, workspace="acmee")
    assert warning.endswith("; did you mean acme?")
    assert "secret" not in warning
    alone = await known.token("hook", workspaces=["acmee"])
    (warning,) = await warnings(known, alone, workspace="acmee")
    assert "did you mean" not in warning
