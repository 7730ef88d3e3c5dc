"""The client against a registry that misbehaves in ways that a real one cannot be asked to."""

import asyncio
from datetime import UTC, datetime

import pytest
from aiohttp import web

from registry.client import MAX_MANIFEST_BYTES, USER_AGENT
from registry.errors import (
    NotFound,
    RegistryRefused,
    RegistryUnavailable,
    TooLarge,
    WrongContent,
)
from registry.media_types import OCI_MANIFEST
from registry.names import format_digest
from registry.transport import Retries
from tests.support.fake_registry import (
    BODY,
    DIGEST,
    GOOD,
    REGISTRY,
    cut_short,
    endless,
    hangs,
    says,
)

pytestmark = pytest.mark.promise("flaky-registry")


@pytest.mark.parametrize(
    "trouble",
    [
        says(500),
        says(502, b"<html>bad gateway</html>"),
        says(503, Retry_After="1"),
        says(429, Retry_After="1"),
        says(200, b'{"schemaVersion": 3}', Content_Type=OCI_MANIFEST),
        cut_short,
    ],
)
async def test_passing_trouble_is_waited_out(fake, trouble):
    fake.script = [trouble, trouble, GOOD]
    async with fake.client() as client:
        assert (await client.get_manifest("a/b", DIGEST)).body == BODY
    assert len(fake.requests) == 3
    assert len(fake.waits) == 2


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (says(500), RegistryUnavailable),
        (says(503), RegistryUnavailable),
        (says(429), RegistryUnavailable),
        (says(200, b"{}", Content_Type=OCI_MANIFEST), WrongContent),
        (cut_short, WrongContent),
    ],
)
async def test_lasting_trouble_ends_in_an_error_that_says_try_later(fake, trouble, error):
    fake.script = [trouble]
    async with fake.client() as client:
        with pytest.raises(error) as caught:
            await client.get_manifest("a/b", DIGEST)
    assert caught.value.retriable
    assert len(fake.requests) == 4
    assert fake.waits == [0.2, 0.4, 0.8]


async def test_a_registry_that_hangs_is_given_up(fake):
    fake.script = [hangs]
    async with fake.client(timeout=0.05, retries=Retries(attempts=2)) as client:
        with pytest.raises(RegistryUnavailable, match="no answer in time"):
            await client.get_manifest("a/b", DIGEST)
    assert len(fake.requests) == 2


async def test_the_registrys_wish_to_be_left_alone_is_respected(fake):
    fake.script = [says(429, Retry_After="7"), GOOD]
    async with fake.client() as client:
        await client.get_manifest("a/b", DIGEST)
    assert fake.waits == [7.0]


async def test_what_one_request_is_told_holds_for_those_that_follow(fake):
    fake.script = [says(429, Retry_After="7"), GOOD]
    async with fake.client() as client:
        await client.get_manifest("a/b", DIGEST)
        await client.get_manifest("a/b", DIGEST)
    assert len(fake.waits) == 2
    assert fake.waits[0] == 7.0
    assert 5.0 < fake.waits[1] <= 7.0


async def test_a_date_in_retry_after_is_read_by_the_registrys_clock(fake):
    fake.script = [
        says(
            503,
            Date="Mon, 23 Nov 2026 21:06:00 GMT",
            Retry_After="Mon, 23 Nov 2026 21:06:05 GMT",
        ),
        GOOD,
    ]
    async with fake.client() as client:
        await client.get_manifest("a/b", DIGEST)
    assert fake.waits == [5.0]


@pytest.mark.parametrize("nonsense", ["soon", "-5", "1e9", "²"])
async def test_nonsense_in_retry_after_is_ignored(fake, nonsense):
    fake.script = [says(429, Retry_After=nonsense), GOOD]
    async with fake.client() as client:
        await client.get_manifest("a/b", DIGEST)
    assert fake.waits == [0.2]


async def test_a_long_wish_is_handed_to_the_caller_instead_of_waited_for(fake):
    fake.script = [says(429, Retry_After="3600")]
    async with fake.client() as client:
        with pytest.raises(RegistryUnavailable) as caught:
            await client.get_manifest("a/b", DIGEST)
    assert caught.value.retry_after == 3600.0
    assert fake.waits == []


async def test_a_huge_manifest_is_not_read(fake):
    fake.script = [endless]
    async with fake.client() as client:
        with pytest.raises(TooLarge):
            await client.get_manifest("a/b", DIGEST)
    assert len(fake.requests) == 1


async def test_an_announced_huge_manifest_is_not_even_started(fake):
    fake.script = [says(200, bytes(MAX_MANIFEST_BYTES + 1))]
    async with fake.client() as client:
        with pytest.raises(TooLarge):
            await client.get_manifest("a/b", DIGEST)


async def test_an_endless_error_page_is_only_quoted(fake):
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=400, headers=REGISTRY)
        await response.prepare(request)
        try:
            while True:
                await response.write(b"\x1b[31m" * 10_000)
        except ConnectionError:
            return response

    fake.script = [answer]
    async with fake.client() as client:
        with pytest.raises(RegistryRefused) as caught:
            await client.get_manifest("a/b", DIGEST)
    assert len(str(caught.value)) < 4000
    assert "\x1b" not in str(caught.value)


async def test_compressed_bodies_are_never_unpacked(fake):
    fake.script = [says(200, BODY, Content_Encoding="gzip")]
    async with fake.client() as client:
        assert (await client.get_manifest("a/b", DIGEST)).body == BODY
    assert fake.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["/v2/a/b/manifests/x", "http://127.0.0.2:1/", "file:///x", ""])
async def test_redirects_are_not_followed(fake, status, target):
    fake.script = [says(status, Location=target)]
    async with fake.client() as client:
        with pytest.raises(RegistryRefused, match=str(status)):
            await client.get_manifest("a/b", DIGEST)
    assert len(fake.requests) == 1


async def test_a_blob_in_object_storage_has_no_known_size_unless_its_host_is_allowed(fake):
    fake.script = [says(307, Location=f"{fake.url}/storage/blob?signature=x")]
    async with fake.client() as client:
        assert await client.head_blob("a/b", DIGEST) is None
    assert len(fake.requests) == 1

    fake.script = [
        says(307, Location=f"{fake.url}/storage/blob?signature=%2F"),
        says(200, b"x" * 9),
    ]
    async with fake.client(redirect_hosts=frozenset({"127.0.0.1"}), username="me") as client:
        client.transport.authorizer._use_basic = True
        assert await client.head_blob("a/b", DIGEST) == 9
    asked, stored = fake.requests[1:]
    assert "Authorization" in asked.headers
    assert "Authorization" not in stored.headers
    assert stored.raw_path == "/storage/blob?signature=%2F"


@pytest.mark.parametrize(
    "place", ["us:er@127.0.0.1:1", "127.0.0.1:99999", "127.0.0.1:x", "[", "127.0.0.1:1/ HTTP/1.1"]
)
async def test_a_redirect_to_no_place_is_not_followed(fake, place):
    fake.script = [says(307, Location=f"http://{place}/blob")]
    async with fake.client(redirect_hosts=frozenset({"127.0.0.1"}), username="me") as client:
        try:
            assert await client.head_blob("a/b", DIGEST) is None
        except RegistryRefused as error:
            assert "redirects to no address" in str(error)  # noqa: PT017 - either is fine
    assert len(fake.requests) == 1


@pytest.mark.parametrize("host", ["us:er@{}", "us@{}"])
async def test_a_page_that_names_a_user_of_its_own_is_not_asked_for(fake, host):
    address = fake.url.replace("//", f"//{host.format('')}")
    fake.script = [
        says(200, b'{"tags": ["a"]}', Link=f'<{address}/v2/a/b/tags/list?last=a>; rel="next"')
    ]
    async with fake.client(username="me") as client:
        client.transport.authorizer._use_basic = True
        with pytest.raises(WrongContent, match="leads away"):
            assert [tag async for tag in client.list_tags("a/b")]


async def test_an_endless_redirect_ends_after_the_first_hop(fake):
    fake.script = [says(307, Location=f"{fake.url}/again")]
    async with fake.client(redirect_hosts=frozenset({"127.0.0.1"})) as client:
        with pytest.raises(RegistryRefused, match="307"):
            await client.get_blob("a/b", DIGEST, 100)
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    "method", ["head_manifest", "head_blob", "get_manifest", "delete_manifest"]
)
async def test_a_404_of_something_else_is_not_absence(fake, method):
    async def proxy(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="<html>no such page</html>")

    fake.script = [proxy]
    async with fake.client() as client:
        with pytest.raises(RegistryUnavailable, match="other than a registry"):
            await getattr(client, method)("a/b", DIGEST)


@pytest.mark.parametrize("body", [b"", b"<html>It works!</html>", b"[]", b'"ok"'])
async def test_what_answers_200_to_everything_is_no_registry(fake, body):
    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    fake.script = [page]
    async with fake.client() as client:
        with pytest.raises(RegistryRefused, match="other than a registry"):
            await client.ping()


async def test_a_registry_is_known_by_its_header_or_by_what_it_says(fake):
    async def without_header(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{}")

    fake.script = [says(200, b""), without_header]
    async with fake.client() as client:
        await client.ping()
        await client.ping()


@pytest.mark.parametrize("code", ["MANIFEST_UNKNOWN", "NAME_UNKNOWN"])
async def test_a_404_with_a_registrys_error_code_is_absence(fake, code):
    async def terse(_request: web.Request) -> web.StreamResponse:
        body = {"errors": [{"code": code, "message": "m", "detail": {"x": 1}}]}
        return web.json_response(body, status=404)

    fake.script = [terse]
    async with fake.client() as client:
        assert not (await client.head_manifest("a/b", DIGEST)).exists
        assert not (await client.delete_manifest("a/b", DIGEST)).existed
        with pytest.raises(NotFound):
            await client.get_manifest("a/b", DIGEST)


async def test_every_manifest_request_accepts_all_four_types_and_says_who_we_are(fake):
    fake.script = [says(200, BODY, Docker_Content_Digest=format_digest(DIGEST))]
    async with fake.client() as client:
        await client.get_manifest("a/b", DIGEST)
        await client.head_manifest("a/b", "1")
        await client.tag_digest("a/b", "1", bytes(32))
    assert len(fake.requests) == 3
    for request in fake.requests:
        assert request.headers["User-Agent"] == USER_AGENT
        assert USER_AGENT.startswith("registry-quota/")
        for kind in ("manifest.v2+json", "manifest.list.v2+json", "manifest.v1", "index.v1"):
            assert kind in request.headers["Accept"]
    assert fake.requests[2].headers["If-None-Match"] == f'"{format_digest(bytes(32))}"'


@pytest.mark.parametrize("body", [b"", b"<html>welcome</html>", b"{}"])
async def test_a_tag_without_a_digest_and_without_a_manifest_is_no_answer(fake, body):
    fake.script = [says(200, body)]
    async with fake.client() as client:
        with pytest.raises(WrongContent, match="no manifest"):
            await client.tag_digest("a/b", "1")


async def test_no_more_than_the_allowed_requests_are_open_at_a_time(fake):
    async def slow(_request: web.Request) -> web.StreamResponse:
        for _ in range(20):
            await asyncio.sleep(0)
        return web.Response(body=BODY, headers=REGISTRY)

    fake.script = [slow]
    async with fake.client(concurrency=3) as client:
        await asyncio.gather(*(client.get_manifest("a/b", DIGEST) for _ in range(30)))
    assert 1 <= fake.open_most <= 3


async def test_a_cancelled_request_gives_its_place_back(fake):
    fake.script = [hangs]
    async with fake.client(concurrency=1) as client:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get_manifest("a/b", DIGEST), 0.02)
        fake.script = [GOOD]
        assert (await client.get_manifest("a/b", DIGEST)).body == BODY


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Foo 2026 21:06:00 GMT"])
async def test_a_clock_that_cannot_be_read_is_none(fake, date):
    fake.script = [says(200, BODY, Date=date)]
    async with fake.client() as client:
        assert (await client.get_manifest("a/b", DIGEST)).date is None
    fake.script = [says(200, BODY, Date="Mon, 23 Nov 2026 21:06:00 GMT")]
    async with fake.client() as client:
        date_read = (await client.get_manifest("a/b", DIGEST)).date
    assert date_read == datetime(2026, 11, 23, 21, 6, tzinfo=UTC)


@pytest.mark.parametrize("length", ["", "x", "-1", "9" * 30])
async def test_a_size_that_cannot_be_one_is_not_known(fake, length):
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        header = f"Content-Length: {length}\r\n" if length else ""
        head = f"HTTP/1.1 200 OK\r\n{header}Connection: close\r\n\r\n"
        request.transport.write(head.encode())
        request.transport.close()
        return web.Response()

    fake.script = [answer]
    async with fake.client() as client:
        outcomes = await asyncio.gather(client.head_blob("a/b", DIGEST), return_exceptions=True)
    assert outcomes[0] is None or isinstance(outcomes[0], RegistryUnavailable)


async def test_a_client_outside_of_its_block_says_so(fake):
    with pytest.raises(RuntimeError, match="async with"):
        await fake.client().ping()
