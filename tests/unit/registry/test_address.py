import pytest
from yarl import URL

from registry.address import host_allowed, next_page, registry_base_url, same_registry
from registry.auth import Challenge, parse_challenges
from registry.errors import BadRegistryUrl
from registry.transport import Retries, http_date

BASE = URL("http://registry:5000")


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5000"),
        ("  https://registry.example.com  ", "https://registry.example.com"),
        ("HTTPS://Registry.Example.com:443", "https://registry.example.com"),
        ("orbit-registry:5000", "http://orbit-registry:5000"),
        ("my_registry", "http://my_registry"),
        ("registry.example.com:443", "https://registry.example.com"),
        ("127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("https://registry.example.com/docker", "https://registry.example.com/docker"),
        ("https://registry.example.com/docker/", "https://registry.example.com/docker"),
        ("https://registry.example.com/docker/v2/", "https://registry.example.com/docker"),
        ("registry:5000/a/b.c", "http://registry:5000/a/b.c"),
        ("example.com:443/r", "https://example.com/r"),
    ],
)
def test_addresses_with_and_without_scheme_are_taken(text, base):
    assert str(registry_base_url(text)) == base


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("http://http://registry:5000", "two schemes"),
        ("https://http://registry:5000", "two schemes"),
        ("http:registry:5000", "lacks the //"),
        ("http:/registry:5000", "lacks the //"),
        ("ftp://registry", "not http or https"),
        ("http://", "host|URL"),
        ("http://:5000", "host|URL"),
        ("http://registry:port", "port"),
        ("registry:99999", "Port"),
        ("registry:0", "host"),
        ("http://reg istry", "host"),
        ("http://registry\n:5000", "host"),
        ("http://-registry", "host"),
        ("http://user:secret@registry", "credentials"),
        ("http://user:secret@registry:port", "port"),
        ("http://user:secret@http://registry", "two schemes"),
        ("http://registry/a//b", "has a path"),
        ("http://registry/v2/acme/api", "leads into"),
        ("http://registry/a%2fb", "has a path"),
        ("http://registry/a;b", "has a path"),
        ("http://registry/?", "has a path"),
        ("http://registry?x=1", "has a path"),
        ("http://registry#x", "has a path"),
        ("http://regi%2fstry", "host"),
    ],
)
def test_what_is_no_address_is_refused_with_words(text, reason):
    with pytest.raises(BadRegistryUrl, match=reason) as caught:
        registry_base_url(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "allowed", "expected"),
    [
        ("http://auth.example/token", {"auth.example"}, True),
        ("http://AUTH.example:5001/token", {"auth.example"}, True),
        ("http://auth.example:5001/token", {"auth.example:5001"}, True),
        ("https://auth.example/token", {"auth.example:443"}, True),
        ("http://auth.example:5002/token", {"auth.example:5001"}, False),
        ("http://evil-auth.example/", {"auth.example"}, False),
        ("http://auth.example.evil/", {"auth.example"}, False),
        ("http://auth.example@evil.example/", {"auth.example"}, False),
        ("http://us:er@auth.example/token", {"auth.example"}, False),
        ("http://us@auth.example/token", {"auth.example"}, False),
        ("/relative", {""}, False),
    ],
)
def test_hosts_are_allowed_whole(url, allowed, expected):
    assert host_allowed(URL(url), frozenset(allowed)) is expected


@pytest.mark.parametrize("port", ["99999", "x", "-1"])
def test_a_port_that_is_none_is_at_no_host(port):
    url = URL(f"http://auth.example:{port}/", encoded=True)
    assert not host_allowed(url, frozenset({"auth.example"}))


def test_a_link_is_followed_verbatim():
    current = URL("http://registry:5000/v2/_catalog?n=4")
    page = next_page('</v2/_catalog?last=acme%2Fmany&n=4>; rel="next"', current, BASE)
    assert str(page) == "http://registry:5000/v2/_catalog?last=acme%2Fmany&n=4"
    assert next_page(None, current, BASE) is None
    assert next_page("", current, BASE) is None
    assert next_page('</v2/_catalog?n=4>; rel="prev"', current, BASE) is None


@pytest.mark.parametrize(
    "location",
    [
        "http://elsewhere:5000/v2/x",
        "https://registry:5000/v2/x",
        "http://registry:5001/v2/x",
        "//elsewhere/v2/x",
        "/other",
        "file:///v2/x",
        "",
        "../../etc",
        "http://us:er@registry:5000/v2/x",
        "http://us@registry:5000/v2/x",
        "/v2/ x",
        "/v2/é",
        "/v2/x\r\nX: y",
    ],
)
def test_what_leads_away_from_the_registry_is_refused(location):
    with pytest.raises(ValueError, match=r"leads away|URL"):
        same_registry(location, URL("http://registry:5000/x"), BASE)


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("http://host/v2/x?n=1", "https://host/docker/v2/x?n=1"),
        ("http://host:5000/docker/v2/x", "https://host/docker/v2/x"),
        ("https://host/v2/x", "https://host/docker/v2/x"),
    ],
)
def test_what_a_registry_behind_tls_calls_http_is_asked_for_by_tls(location, place):
    base = URL("https://host/docker")
    assert str(same_registry(location, URL("https://host/docker/v2/y"), base)) == place
    with pytest.raises(ValueError, match="leads away"):
        same_registry(location.replace("host", "elsewhere"), base, base)


def test_challenges_are_taken_apart_bearer_first():
    basic = 'Basic realm="Registry \\"Realm\\""'
    bearer = 'bearer realm="https://auth/token",service=reg , scope="repository:a/b:pull,push"'
    assert parse_challenges([basic, bearer, "Negotiate", ""]) == [
        Challenge(
            "bearer",
            {"realm": "https://auth/token", "service": "reg", "scope": "repository:a/b:pull,push"},
        ),
        Challenge("basic", {"realm": 'Registry "Realm"'}),
    ]


def test_waits_double_up_to_a_ceiling_and_spread():
    retries = Retries(attempts=9, first_wait=1.0, longest_wait=5.0)
    assert [retries.wait(attempt, 1.0) for attempt in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert retries.wait(1, 0.0) == 1.0
    assert retries.wait(1000, 1.0) == 5.0


@pytest.mark.parametrize("text", [None, "", "x", "Mon, 99 Foo 2026 21:06:00 GMT"])
def test_a_date_that_is_none_is_none(text):
    assert http_date(text) is None
