"""Sign-in, and when it ends; nobody gets in or writes who may not."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from quota.pages.workspaces import Workspaces
from tests.support.live_api import OPERATOR_NEXT, live_api
from tests.support.visitor import COOKIE, Visitor
from tests.support.waiting import wait_until

PATHS = ["/", "/workspaces/acme", "/workspaces/acme/images", "/workspaces/acme/live"]


async def set_up(api, *names):
    for name in names or ("acme",):
        assert (await api.call("PATCH", f"/v1/workspaces/{name}", {"quota_bytes": 10**9}))[0] == 200


async def test_who_is_not_signed_in_is_sent_to_the_sign_in(api):
    for path in PATHS:
        answer = await Visitor(api).get(path)
        assert answer.status == 303, path
        assert answer.header("Location").startswith("/sign-in"), path


async def test_the_cookie_is_for_our_server_alone_and_holds_no_token(api):
    visitor = Visitor(api)
    token = await api.token("read", workspaces=["acme"])
    answer = await visitor.sign_in(token, after="/workspaces/acme")
    assert (answer.status, answer.header("Location")) == (303, "/workspaces/acme")
    cookie = answer.header("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert token.rsplit("_", 1)[1] not in cookie
    behind_tls = await Visitor(api, headers={"X-Forwarded-Proto": "https"}).sign_in(token)
    assert "Secure" in behind_tls.header("Set-Cookie")


async def test_a_wrong_token_opens_nothing(api):
    for token in ("wrong", "rq_0123456789abcdef_00", "", "ä\x00", "x" * 999):
        visitor = Visitor(api)
        assert (await visitor.sign_in(token)).status in {400, 403}, token
        assert visitor.cookie is None


async def test_a_token_that_may_not_read_opens_nothing(api):
    answer = await Visitor(api).sign_in(await api.token("hook", workspaces=["acme"]))
    assert answer.status == 403
    assert "scope" in answer.text


async def test_sign_in_never_leads_to_another_host(api):
    for after in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", ""):
        assert (await Visitor(api).sign_in(after=after)).header("Location") == "/", after


async def test_a_session_ends_with_its_token(api):
    await set_up(api)
    token = await api.token("read", workspaces=["acme"])
    visitor = Visitor(api)
    await visitor.sign_in(token)
    assert (await visitor.get("/workspaces/acme")).status == 200
    await api.call("DELETE", f"/v1/tokens/{token.split('_')[1]}")
    answer = await visitor.get("/workspaces/acme")
    assert (answer.status, "ended=1" in answer.header("Location")) == (303, True)


async def test_who_watches_is_shown_nothing_after_the_token_is_revoked(api):
    await set_up(api)
    token = await api.token("read", workspaces=["acme"])
    visitor = Visitor(api)
    await visitor.sign_in(token)
    cookie = {"Cookie": f"{COOKIE}={visitor.cookie}"}
    async with api.session.get(f"{api.base}/workspaces/acme/live", headers=cookie) as stream:
        assert await stream.content.readline() == b"event: summary\n"
        await api.call("DELETE", f"/v1/tokens/{token.split('_')[1]}")
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**6})
        rest = await asyncio.wait_for(stream.content.read(), 10)
    told = [line for line in rest.splitlines() if line.startswith(b"event: ")]
    assert told == [b"event: signed-out"]


@pytest.mark.parametrize(
    ("failure", "goes_on"), [(asyncpg.InterfaceError("closed"), True), (ValueError("a bug"), False)]
)
async def test_a_stream_that_fails_goes_on_or_ends_and_is_no_other_answer(
    api, monkeypatch, failure, goes_on
):
    """A page with an error in the middle of the stream would be read by nobody, and not asked for again."""
    await set_up(api)
    visitor = Visitor(api)
    await visitor.sign_in()
    summary_of = Workspaces.summary_of
    outcomes = [None, failure]

    async def fails_at_the_second(self, view, pulse):
        if outcomes and (error := outcomes.pop(0)):
            raise error
        return await summary_of(self, view, pulse)

    monkeypatch.setattr(Workspaces, "summary_of", fails_at_the_second)
    cookie = {"Cookie": f"{COOKIE}={visitor.cookie}"}
    async with api.session.get(f"{api.base}/workspaces/acme/live", headers=cookie) as stream:
        assert await stream.content.readline() == b"event: summary\n"
        await stream.content.readuntil(b"\n\n")
        await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 10**6})
        async with asyncio.timeout(10):
            told = [line async for line in stream.content] if not goes_on else []
            while goes_on and b"event: summary\n" not in told:
                told.append(await stream.content.readline())
    assert not outcomes
    assert all(line.startswith((b"event: ", b"data: ", b"\n")) for line in told), told


async def test_who_opens_page_after_page_keeps_nobody_else_from_watching(api, monkeypatch):
    monkeypatch.setattr("quota.pages.live._OF_ONE_VISITOR", 2)
    # Who left is noticed when the next one is sent.
    monkeypatch.setattr("quota.pages.live._SIGN_OF_LIFE_SECONDS", 0.5)
    await set_up(api)
    cookies = []
    for _number in range(2):
        token = await api.token("read", workspaces=["acme"])
        visitor = Visitor(api)
        await visitor.sign_in(token)
        cookies.append({"Cookie": f"{COOKIE}={visitor.cookie}"})
    one, another = cookies

    async def watch(stack, cookie):
        stream = api.session.get(f"{api.base}/workspaces/acme/live", headers=cookie)
        return (await stack.enter_async_context(stream)).status

    async with AsyncExitStack() as stack:
        assert [await watch(stack, one) for _number in range(4)] == [200, 200, 429, 429]
        assert await watch(stack, another) == 200
    await wait_until(lambda: streams_again(api, one), 15, what="places that were left are free")


async def streams_again(api, cookie):
    async with api.session.get(f"{api.base}/workspaces/acme/live", headers=cookie) as stream:
        return stream.status == 200


async def test_a_session_ends_after_its_time(api, visitor):
    await set_up(api)
    assert (await visitor.get("/")).status == 200
    api.clock.ahead = timedelta(hours=13)
    answer = await visitor.get("/workspaces/acme")
    assert answer.header("Location") == "/sign-in?ended=1&next=%2Fworkspaces%2Facme"
    assert "session has ended" in (await visitor.get(answer.header("Location"))).text
    part = await visitor.get("/workspaces/acme/images", HX_Request="true")
    assert (part.status, part.header("HX-Redirect")) == (401, "/sign-in?ended=1")


async def test_a_session_of_an_operators_token_survives_the_other_one_alone(pool, api):
    first, second = Visitor(api), Visitor(api)
    await first.sign_in()
    await second.sign_in(OPERATOR_NEXT)
    async with live_api(pool, operator=OPERATOR_NEXT) as later:
        for visitor, status in ((first, 303), (second, 200)):
            visitor.api = later
            assert (await visitor.get("/")).status == status


async def test_a_cookie_that_we_did_not_sign_is_none(visitor):
    for cookie in (f"{visitor.cookie}x", f"x{visitor.cookie}", "e30.x", "", "x" * 2000):
        visitor.cookie = cookie
        assert (await visitor.get("/")).status == 303, cookie


async def test_somebody_elses_workspace_is_not_there(api):
    await set_up(api, "acme", "other")
    visitor = Visitor(api)
    await visitor.sign_in(await api.token("read", "write", workspaces=["other"]))
    listed = (await visitor.get("/")).text
    assert "/workspaces/other" in listed
    assert "acme" not in listed
    paths = ["", "/images", "/summary", "/live", "/cleanups/0b5c1f6e-0000-4000-8000-000000000000"]
    for path in paths:
        missing = await visitor.get(f"/workspaces/qqqq{path}")
        theirs = await visitor.get(f"/workspaces/acme{path}")
        assert (missing.status, theirs.status) == (404, 404), path
        assert theirs.text == missing.text
    form = {"csrf": await visitor.csrf()}
    assert (await visitor.send("POST", "/workspaces/acme/cleanups", form=form)).status == 404


FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data"


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (PARTS, b"x", 415),
        (f"{PARTS}; boundary=a", b"--a\r\nno header\r\n\r\nx\r\n--a--", 415),
        (f"{PARTS}; boundary=a", b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--", 415),
        ("application/json", b'{"token": "x"}', 415),
        (f"{FORM}; charset=foo", b"token=x", 403),
        (FORM, b"\xff\xfe=1", 400),
        (FORM, b"token=%ff", 400),
        (FORM, b"&".join(b"a%d=1" % number for number in range(50)), 400),
    ],
)
async def test_what_is_no_form_of_ours_is_its_senders_mistake(api, kind, body, status):
    """Whoever can reach the page can send this: it is no failure of ours, and no traceback in the log."""
    headers = {"Content-Type": kind}
    for path in ("/sign-in", "/sign-out"):
        cookie = {} if path == "/sign-in" else {"Cookie": f"{COOKIE}={await signed_in(api)}"}
        async with api.session.post(
            f"{api.base}{path}", data=body, headers=headers | cookie
        ) as answer:
            assert answer.status == status, path


async def signed_in(api):
    visitor = Visitor(api)
    await visitor.sign_in()
    return visitor.cookie


async def test_a_form_from_elsewhere_changes_nothing(api, visitor):
    await set_up(api)
    csrf = await visitor.csrf()
    other = Visitor(api)
    await other.sign_in()
    forms = [{}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": await other.csrf()}, {"csrf": "ü"}]
    for form in forms:
        answer = await visitor.send("POST", "/workspaces/acme/cleanups", form=form)
        assert answer.status == 403, form
    elsewhere = (
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    )
    for headers in elsewhere:
        answer = await visitor.send(
            "POST", "/workspaces/acme/cleanups", form={"csrf": csrf}, **headers
        )
        assert answer.status == 403, headers
    assert (await visitor.send("POST", "/sign-out", form={"csrf": "0"})).status == 403
    assert visitor.cookie is not None


async def test_who_may_only_read_cannot_clean(api):
    await set_up(api)
    visitor = Visitor(api)
    await visitor.sign_in(await api.token("read", workspaces=["acme"]))
    form = {"csrf": await visitor.csrf()}
    assert (await visitor.send("POST", "/workspaces/acme/cleanups", form=form)).status == 403


async def test_signing_out_ends_the_session_in_this_browser(visitor):
    answer = await visitor.send("POST", "/sign-out", form={"csrf": await visitor.csrf()})
    assert (answer.status, answer.header("Location")) == (303, "/sign-in")
    assert visitor.cookie is None


USER = {"X-Forwarded-User": "ada", "X-Workspaces": "acme, other"}


async def test_nobody_is_believed_who_says_to_be_signed_in(api):
    assert (await Visitor(api, headers=USER).get("/")).status == 303


async def test_a_trusted_proxy_signs_people_in(pool):
    settings: dict[str, Any] = {
        "proxy_addresses": "10.0.0.0/8,127.0.0.1",
        "proxy_workspaces_header": "X-Workspaces",
    }
    async with live_api(pool, **settings) as api:
        await set_up(api, "acme", "third")
        ada = Visitor(api, headers=USER)
        listed = await ada.get("/")
        assert listed.status == 200
        assert "/workspaces/acme" in listed.text
        assert "third" not in listed.text
        assert (await ada.get("/workspaces/third")).status == 404
        assert (await Visitor(api).get("/")).status == 303
        assert (
            await Visitor(api, headers={"X-Forwarded-User": "bob"}).get("/workspaces/acme")
        ).status == 404
        everything = Visitor(api, headers={**USER, "X-Workspaces": "*"})
        assert (await everything.get("/workspaces/third")).status == 200
        # Reading is all that they may, unless the settings say more.
        assert (await ada.send("POST", "/workspaces/acme/cleanups", form={})).status == 403


async def test_another_address_is_no_trusted_proxy(pool):
    async with live_api(pool, proxy_addresses="10.0.0.0/8") as api:
        assert (await Visitor(api, headers=USER).get("/")).status == 303
