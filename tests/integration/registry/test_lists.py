"""Lists of tags and repositories, page by page, from a registry that may send anything."""

import json

import pytest

from registry.errors import (
    WrongContent,
)
from tests.support.fake_registry import says


def tags(*names: str | None) -> bytes:
    return json.dumps({"name": "a/b", "tags": list(names)}).encode()


async def test_pages_are_followed_by_their_links_verbatim(fake):
    fake.script = [
        says(200, tags("b", "a"), Link='</v2/a/b/tags/list?last=a%2Fb&n=2>; rel="next"'),
        says(200, tags("c"), Link="</v2/a/b/tags/list?n=2&last=c%20>;rel=next"),
        says(200, b'{"tags": null}'),
    ]
    async with fake.client() as client:
        assert [tag async for tag in client.list_tags("a/b")] == ["b", "a", "c"]
    assert [request.raw_path for request in fake.requests] == [
        "/v2/a/b/tags/list",
        "/v2/a/b/tags/list?last=a%2Fb&n=2",
        "/v2/a/b/tags/list?n=2&last=c%20",
    ]


@pytest.mark.parametrize("body", [b'{"tags": null}', b'{"tags": []}', b"{}"])
async def test_no_tags_in_any_spelling_are_none(fake, body):
    fake.script = [says(200, body)]
    async with fake.client() as client:
        assert [tag async for tag in client.list_tags("a/b")] == []


async def test_entries_outside_the_grammar_are_left_out(fake):
    fake.script = [says(200, tags("ok", "../x", "", "a b"))]
    async with fake.client() as client:
        assert [tag async for tag in client.list_tags("a/b")] == ["ok"]
    fake.script = [says(200, b'{"repositories": ["a/b", "../../etc", "A/B"]}')]
    async with fake.client() as client:
        assert [name async for name in client.catalog()] == ["a/b"]


async def test_tags_that_are_too_many_at_once_come_page_by_page(fake, monkeypatch):
    monkeypatch.setattr("registry.client.MAX_LIST_BYTES", 60)
    fake.script = [
        says(200, tags(*"abcdefghijklm")),
        says(200, tags("a"), Link='</v2/a/b/tags/list?last=a&n=1000>; rel="next"'),
        says(200, tags("b")),
    ]
    async with fake.client() as client:
        assert [tag async for tag in client.list_tags("a/b")] == ["a", "b"]
    assert fake.requests[1].raw_path == "/v2/a/b/tags/list?n=1000"


@pytest.mark.parametrize(
    "link",
    [
        '<http://127.0.0.2:1/v2/_catalog?n=1>; rel="next"',
        '<//elsewhere.example/v2/_catalog>; rel="next"',
        '</etc/passwd>; rel="next"',
        '</v2/_catalog?n=1000>; rel="next"',  # round in circles
    ],
)
async def test_a_link_that_leads_astray_ends_the_list_with_an_error(fake, link):
    fake.script = [says(200, b'{"repositories": ["a/b"]}', Link=link)]
    async with fake.client() as client:
        with pytest.raises(WrongContent):
            [name async for name in client.catalog()]
    assert len(fake.requests) == 1


def pages(name_of, count=100):
    """Pages that each lead on to an address of its own; the names are those of `name_of(page)`."""
    return [
        says(200, tags(*name_of(page)), Link=f'</v2/a/b/tags/list?last=x{page}>; rel="next"')
        for page in range(count)
    ]


@pytest.mark.parametrize(
    "name_of", [lambda _page: (), lambda _page: ("same",), lambda page: ("ab"[page % 2], "c")]
)
async def test_links_that_lead_on_and_on_to_nothing_new_end_the_list_with_an_error(fake, name_of):
    fake.script = pages(name_of)
    async with fake.client() as client:
        with pytest.raises(WrongContent, match="do not end: the last 10 name nothing new"):
            [tag async for tag in client.list_tags("a/b")]
    assert len(fake.requests) <= 12


async def test_a_list_that_names_something_new_for_ever_is_read_to_a_bound(fake, monkeypatch):
    monkeypatch.setattr("registry.client.MOST_PAGES", 40)
    fake.script = pages(lambda page: (f"v{page}",))
    async with fake.client() as client:
        with pytest.raises(WrongContent, match="40 names on 40 pages"):
            [tag async for tag in client.list_tags("a/b")]
        monkeypatch.setattr("registry.client.MOST_NAMES", 25)
        fake.script = pages(lambda page: (f"v{page}", f"w{page}"))
        with pytest.raises(WrongContent, match="26 names on 13 pages, at most 25"):
            [tag async for tag in client.list_tags("a/b")]


async def test_some_pages_without_names_are_no_end(fake):
    """A registry that filters by rights does so behind its paging."""
    filtered = pages(lambda page: () if page else ("a",), 9)
    fake.script = [*filtered, says(200, tags("b"))]
    async with fake.client() as client:
        assert [tag async for tag in client.list_tags("a/b")] == ["a", "b"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"tags": "x"}', b'{"tags": [1]}'])
async def test_a_list_that_is_none_is_an_error(fake, body):
    fake.script = [says(200, body)]
    async with fake.client() as client:
        with pytest.raises(WrongContent):
            [tag async for tag in client.list_tags("a/b")]
