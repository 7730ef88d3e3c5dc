"""Challenges and tokens, also hostile ones."""

import pytest
from aiohttp import web

from registry.errors import (
    RegistryDenied,
    RegistryUnavailable,
    WrongContent,
)
from tests.support.fake_registry import BODY, DIGEST, REGISTRY, FakeRegistry, cut_short, says


def token_registry(fake: FakeRegistry, realm: str = "", **token: object) -> list[web.Request]:
    """Let `fake` want a token and hand it out at `/token`; returns what is asked there."""
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            asked.append(request)
            return web.json_response({"token": f"t{len(asked)}", "expires_in": 300} | token)
        if request.headers.get("Authorization", "").startswith("Bearer t"):
            return web.Response(body=BODY, headers=REGISTRY)
        challenge = (
            f'Bearer realm="{realm or fake.url + "/token"}",service="reg",'
            'scope="repository:a/b:pull,push repository:c/d:pull"'
        )
        return web.Response(status=401, headers=REGISTRY | {"WWW-Authenticate": challenge})

    fake.script = [answer]
    return asked


async def test_a_token_is_fetched_once_for_a_scope_and_used_again(fake):
    asked = token_registry(fake)
    async with fake.client(username="me") as client:
        for _ in range(3):
            await client.get_manifest("a/b", DIGEST)
        assert len(asked) == 1
        await client.get_manifest("other/one", DIGEST)
    assert len(asked) == 2
    assert asked[0].query.getall("scope") == ["repository:a/b:pull,push", "repository:c/d:pull"]
    assert asked[0].query["service"] == "reg"
    assert asked[0].headers["Authorization"].startswith("Basic ")
    assert fake.requests[2].headers["Authorization"] == "Bearer t1"


async def test_an_expired_token_is_fetched_again(fake):
    asked = token_registry(fake, expires_in=100)
    now = [1000.0]
    async with fake.client() as client:
        client.transport.authorizer._clock = lambda: now[0]
        await client.get_manifest("a/b", DIGEST)
        now[0] += 89
        await client.get_manifest("a/b", DIGEST)
        assert len(asked) == 1
        now[0] += 2
        await client.get_manifest("a/b", DIGEST)
    assert len(asked) == 2
    assert "Authorization" not in asked[0].headers


async def test_the_other_name_of_a_token_is_understood(fake):
    token_registry(fake, token=None, access_token="t9")
    async with fake.client() as client:
        assert (await client.get_manifest("a/b", DIGEST)).body == BODY


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.2:1/token",
        "http://evil.example/t",
        "file:///etc/passwd",
        "nothing",
        "http://us:er@127.0.0.1:1/token",
        "http://127.0.0.1:99999/token",
    ],
)
async def test_a_realm_elsewhere_never_sees_our_credentials(fake, realm):
    token_registry(fake, realm)
    async with fake.client(username="me") as client:
        with pytest.raises(RegistryDenied, match="realm"):
            await client.get_manifest("a/b", DIGEST)


async def test_a_realm_that_the_configuration_allows_is_asked(fake):
    realm = fake.url.replace("127.0.0.1", "localhost") + "/token"
    asked = token_registry(fake, realm)
    async with fake.client(token_hosts=frozenset({"LOCALHOST"})) as client:
        assert (await client.get_manifest("a/b", DIGEST)).body == BODY
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("token", "error"),
    [
        ({"token": ""}, WrongContent),
        ({"token": None}, WrongContent),
        ({"token": 5}, WrongContent),
        ({"token": "t\r\nX-Evil: 1"}, WrongContent),
        ({"token": "wrong"}, RegistryDenied),
    ],
)
async def test_a_token_service_that_hands_out_nonsense_is_an_error(fake, token, error):
    token_registry(fake, **token)
    async with fake.client() as client:
        with pytest.raises(error):
            await client.get_manifest("a/b", DIGEST)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (says(302, Location="http://127.0.0.2:1/"), RegistryUnavailable),
        (says(500), RegistryUnavailable),
        (says(401), RegistryDenied),
        (says(200, b"x" * 2_000_000), WrongContent),
        (cut_short, RegistryUnavailable),
    ],
)
async def test_a_token_service_in_trouble_is_an_error_of_its_kind(fake, answer, error):
    async def either(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            answered: web.StreamResponse = await answer(request)
            return answered
        challenge = f'Bearer realm="{fake.url}/token"'
        return web.Response(status=401, headers=REGISTRY | {"WWW-Authenticate": challenge})

    fake.script = [either]
    async with fake.client() as client:
        with pytest.raises(error):
            await client.get_manifest("a/b", DIGEST)


@pytest.mark.parametrize(
    "challenge", ["", "Negotiate", "Bearer", 'Basic realm="x"', "\tBearer ,,,"]
)
async def test_a_challenge_that_cannot_be_met_is_a_denial(fake, challenge):
    fake.script = [says(401, WWW_Authenticate=challenge)]
    async with fake.client() as client:
        with pytest.raises(RegistryDenied):
            await client.get_manifest("a/b", DIGEST)


async def test_rights_that_lack_are_a_denial_with_the_registrys_words(fake):
    fake.script = [says(403, b'{"errors":[{"code":"DENIED","message":"not yours"}]}')]
    async with fake.client() as client:
        with pytest.raises(RegistryDenied, match="not yours"):
            await client.delete_manifest("a/b", DIGEST)
