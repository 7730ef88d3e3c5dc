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


# -- everywhere else that a name is taken ------------------------------------------------------------


def told(answer):
    return [warning.partition(":")[0] for warning in answer["warnings"]]


async def test_a_lease_for_what_is_not_known_here_is_taken_and_says_so(known):
    digests = [f"sha256:{number:064x}" for number in range(3)]
    body = {"source": "prod", "digests": digests}
    status, answer = await known.call("POST", "/v1/workspaces/acmee/leases", body)
    assert (status, answer["known_digests"]) == (201, 0)
    assert told(answer) == ["unknown_workspace", "unknown_digests"]
    assert answer["warnings"][0].endswith("; did you mean acme or acme-secret?")
    assert "0 of 3 digests are known in acmee" in answer["warnings"][1]
    _status, images = await known.call("GET", "/v1/workspaces/acme/images?app=api")
    body["digests"] = [images["items"][0]["digest"], digests[0]]
    status, answer = await known.call("POST", "/v1/workspaces/acme/leases", body)
    assert (status, answer["known_digests"], answer["warnings"]) == (201, 1, [])
    # What was reported stands in the list all the same, and is no sign of the workspace.
    _status, answer = await known.call("GET", "/v1/workspaces/acmee/leases")
    assert ([item["source"] for item in answer["items"]], told(answer)) == (
        ["prod"],
        ["unknown_workspace"],
    )


async def test_lists_of_a_workspace_that_nobody_knows_say_so(known):
    for place in ("leases", "reservations"):
        status, answer = await known.call("GET", f"/v1/workspaces/nope/{place}")
        assert (status, answer["items"], told(answer)) == (200, [], ["unknown_workspace"])


async def test_a_source_that_is_not_there_is_refused_with_near_ones(known):
    await known.call("POST", "/v1/workspaces/acme/leases", {"source": "prod-eu", "digests": []})
    status, answer = await known.call("DELETE", "/v1/workspaces/acme/leases/prod-us")
    assert (status, answer["detail"].endswith("; did you mean prod-eu?")) == (404, True), answer
    status, answer = await known.call("DELETE", "/v1/workspaces/acmee/leases/prod-eu")
    assert status == 404
    assert "acmee is unknown here" in answer["detail"]
    assert answer["detail"].endswith("; did you mean acme or acme-secret?")


async def test_settings_reservations_tokens_and_mappings_of_unknown_names_say_so(known):
    body = {"quota_bytes": 10**9}
    status, answer = await known.call("PATCH", "/v1/workspaces/Bad%20Name%21", body)
    assert (status, told(answer)) == (200, ["unknown_workspace"])
    assert "no repository's name has such characters" in answer["warnings"][0]
    # Somebody knows it from now on.
    _status, answer = await known.call("PATCH", "/v1/workspaces/Bad%20Name%21", body)
    assert answer["warnings"] == []
    reservation = {"build_id": "1", "bytes": 1}
    path = "/v1/workspaces/acmee/reservations"
    status, answer = await known.call("POST", path, reservation)
    assert (status, told(answer)) == (201, ["unknown_workspace"])
    token = {"scopes": ["hook"], "workspaces": ["acme", "Acme"]}
    status, answer = await known.call("POST", "/v1/tokens", token)
    assert (status, told(answer)) == (201, ["unknown_workspace"])
    mapping = {"workspace": "acmee"}
    status, answer = await known.call("PUT", "/v1/repositories/default/acme/apii", mapping)
    assert (status, told(answer)) == (200, ["unknown_repository", "unknown_workspace"])
    assert answer["warnings"][0].endswith("; did you mean acme/api?")


async def test_images_of_an_app_that_nobody_knows_say_so(known):
    status, answer = await known.call("GET", "/v1/workspaces/acme/images?app=apii")
    assert (status, answer["items"], told(answer)) == (200, [], ["unknown_app"])
    assert answer["warnings"][0].endswith("; did you mean api?")
    _status, answer = await known.call("GET", "/v1/workspaces/acme/images?app=api")
    assert (len(answer["items"]), answer["warnings"]) == (1, [])


async def test_a_restore_of_an_unknown_repository_says_so(known):
    body = {"image": "acme/apii:1"}
    status, answer = await known.call("POST", "/v1/workspaces/acme/restores", body)
    assert (status, answer["detail"].endswith("unknown in it; did you mean acme/api?")) == (
        404,
        True,
    ), answer


async def test_a_tenant_hears_of_no_near_name_that_is_not_its_own(known):
    token = await known.token("admin", workspaces=["acmee", "zeta"])
    for method, path, body in (
        ("POST", "/v1/workspaces/acmee/leases", {"source": "s", "digests": []}),
        ("GET", "/v1/workspaces/acmee/leases", None),
        ("POST", "/v1/workspaces/acmee/reservations", {"build_id": "1", "bytes": 1}),
        ("POST", "/v1/tokens", {"scopes": ["hook"], "workspaces": ["acmee"]}),
        ("PATCH", "/v1/workspaces/acmee", {"enforcement": "strict"}),
    ):
        status, answer = await known.call(method, path, body, token=token)
        assert status < 300, answer
        assert told(answer) == ["unknown_workspace"]
        assert "did you mean" not in answer["warnings"][0], path


# -- workspaces of two components --------------------------------------------------------------------


async def test_a_workspace_with_a_slash_has_every_address(known):
    path = "/v1/workspaces/group%2Fteam"
    status, answer = await known.call("PATCH", path, {"quota_bytes": 10**9})
    assert (status, answer["workspace"]) == (200, "group/team")
    for place in (
        "",
        "/usage",
        "/images",
        "/events",
        "/history",
        "/leases",
        "/reservations",
        "/cleanups",
    ):
        status, answer = await known.call("GET", f"{path}{place}")
        assert status == 200, (place, answer)
    status, answer = await known.call("POST", f"{path}/cleanup-plans", {})
    assert (status, answer["workspace"]) == (200, "group/team")
    status, answer = await known.call("GET", f"{path}/cleanup-plans/{answer['id']}")
    assert (status, answer["workspace"]) == (200, "group/team")
    status, answer = await known.call("POST", HOOK, {"workspace": "group/team"})
    assert (status, answer["workspace"]) == (200, "group/team")
    internal = "/api/internal/workspaces/group%2Fteam/registry-usage"
    status, answer = await known.call("GET", internal)
    assert (status, answer["quotaBytes"]) == (200, 10**9)


async def test_a_list_of_cleanups_that_is_cut_says_where_it_goes_on(known, pool):
    for number in range(5):
        await pool.execute(
            "INSERT INTO cleanup_runs (id, workspace_id, cause, owner, state, quota_bytes,"
            " usage_before, promised_bytes, started_at, heartbeat_at, finished_at, incoming_bytes,"
            " reserved_bytes) SELECT gen_random_uuid(), id, 'test', 'test', 'finished', 1, 1, 1,"
            " now() - make_interval(mins => $1), now(), now(), 0, 0"
            " FROM workspaces WHERE name = 'acme'",
            number // 2,  # some began at the same moment
        )
    path = "/v1/workspaces/acme/cleanups"
    _status, whole = await known.call("GET", path)
    assert (len(whole["items"]), whole["next_cursor"]) == (5, None)
    found, more = [], "?limit=2"
    for _page in range(3):
        _status, page = await known.call("GET", f"{path}{more}")
        found += page["items"]
        more = f"?limit=2&cursor={page['next_cursor']}"
    assert (found, page["next_cursor"]) == (whole["items"], None)
    assert (await known.call("GET", f"{path}?cursor=x"))[0] == 400
    body = {"image": "acme/api:2"}
    status, answer = await known.call("POST", "/v1/workspaces/acme/restores", body)
    assert (status, answer["detail"]) == (
        404,
        "no cleanup of this workspace has deleted such an image",
    )


async def test_images_of_a_tag_that_names_nothing_say_so_with_near_ones(known):
    now = known.clock()
    for app, tag in (("api", "stable"), ("web", "stable-web")):
        fact = pushed(f"acme/{app}", tag, [(f"{app} {tag}", 1000)])
        await known.recorder.record([fact], now=now)
    path = "/v1/workspaces/acme/images"
    status, answer = await known.call("GET", f"{path}?tag=stabel")
    assert (status, answer["items"]) == (200, [])
    (warning,) = answer["warnings"]
    assert warning == (
        "unknown_tag: stabel is unknown in acme: no image that is there has it; "
        "did you mean stable or stable-web?"
    )
    _status, answer = await known.call("GET", f"{path}?tag=stabel&app=api")
    (warning,) = answer["warnings"]
    assert warning == (
        "unknown_tag: stabel is unknown in app api of acme: no image that is there has it; "
        "did you mean stable?"
    )
    # One mistake is told, and what follows from it is not.
    _status, answer = await known.call("GET", f"{path}?tag=stabel&app=apii")
    assert told(answer) == ["unknown_app"]
    _status, answer = await known.call("GET", f"{path}?tag=stable")
    assert (len(answer["items"]), answer["warnings"]) == (1, [])


async def test_dates_for_what_is_not_there_say_so_with_near_names(known):
    path, date = "/v1/workspaces/acme/image-dates", "2025-01-01T00:00:00Z"
    status, answer = await known.call("POST", path, {"date": date, "app": "apii"})
    assert (status, answer["dated"], told(answer)) == (200, 0, ["unknown_app"])
    assert answer["warnings"][0].endswith("; did you mean api?")
    for image, meant in (
        ("acme/apii:1", "; acme/apii is unknown in it; did you mean acme/api?"),
        ("acme/api:11", "; did you mean 1?"),
        ("acme/api:unlike", ""),
    ):
        status, answer = await known.call("POST", path, {"date": date, "image": image})
        assert (status, answer["detail"]) == (404, f"acme has no image {image}{meant}")
