"""The one registry that is ever contacted: its address, and what counts as the same place (pure)."""

import re
from typing import Final

from yarl import URL

from registry.errors import BadRegistryUrl

_EXAMPLE: Final = "write it like http://127.0.0.1:5000, https://registry.example.com or https://example.com/registry"
_HOST: Final = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?|[0-9A-Fa-f:.]+", re.ASCII
)

_PREFIX: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", re.ASCII)

_IN_A_LINE: Final = re.compile(r"[\x21-\x7e]*")
"""What is sent as it is must not end the line that it is sent in."""


def registry_base_url(text: str) -> URL:
    """A registry's address, with or without scheme, as a base URL without a `/` at its end.

    Without a scheme it is https for port 443, else http (what `ORBIT_REGISTRY_URL=host:5000` means).
    A path is that below which the registry is served (`https://host/docker`, its `http.prefix`); a `/`
    or `/v2/` at its end is dropped. Raises BadRegistryUrl for a doubled scheme, credentials, a query,
    or anything that is no address.
    """
    address = text.strip()
    if not address:
        raise BadRegistryUrl(f"the registry's address is empty; {_EXAMPLE}")
    text = re.sub(r"[^/@]*@", "***@", text)  # as it may be shown: a password may be in it
    if not address.isprintable() or " " in address:
        raise BadRegistryUrl(f"the registry's address {text!a} has no usable host; {_EXAMPLE}")
    if address.count("://") > 1:
        raise BadRegistryUrl(f"the registry's address {text!a} has two schemes; {_EXAMPLE}")
    if "://" not in address:
        if re.match(r"https?:", address, re.IGNORECASE):
            raise BadRegistryUrl(f"the registry's address {text!a} lacks the //; {_EXAMPLE}")
        address = f"http://{address}"
        if re.match(r"http://[^/]*:443(?:/|$)", address):
            address = f"https{address.removeprefix('http')}"
    try:
        url = URL(address)
        host, port = url.host, url.port
    except ValueError as error:
        raise BadRegistryUrl(f"the registry's address {text!a}: {error}; {_EXAMPLE}") from None
    if url.scheme not in ("http", "https"):
        raise BadRegistryUrl(f"the registry's address {text!a} is not http or https; {_EXAMPLE}")
    if not host or not _HOST.fullmatch(host) or not port:
        raise BadRegistryUrl(f"the registry's address {text!a} has no usable host; {_EXAMPLE}")
    if url.user is not None or url.password is not None:
        raise BadRegistryUrl(
            "the registry's address holds credentials; set them as user name and password instead"
        )
    prefix = _prefix(url.raw_path)
    if prefix.startswith("/v2/"):
        raise BadRegistryUrl(
            f"the registry's address {text!a} leads into a registry, where /v2/ begins; {_EXAMPLE}"
        )
    if not _PREFIX.fullmatch(prefix) or url.query_string or url.fragment or "?" in address:
        raise BadRegistryUrl(
            f"the registry's address {text!a} has a path or query that leads to no registry; {_EXAMPLE}"
        )
    return url.origin().with_path(prefix, encoded=True) if prefix else url.origin()


def _prefix(path: str) -> str:
    """The path below which a registry is served; "" at its root. No `/` at its end."""
    return path.rstrip("/").removesuffix("/v2").rstrip("/")


def host_allowed(url: URL, allowed: frozenset[str]) -> bool:
    """Whether `url` is at one of `allowed`, each a `host` (any port) or `host:port`.

    One with a user or password of its own is not: those are no business of whoever sends us there.
    """
    try:
        host, port = (url.host or "").lower(), url.port
    except ValueError:  # a port that is none
        return False
    if _names_somebody(url):
        return False
    return bool(host) and (host in allowed or f"{host}:{port}" in allowed)


def _names_somebody(url: URL) -> bool:
    return url.raw_user is not None or url.raw_password is not None


def next_page(link: str | None, current: URL, base: URL) -> URL | None:
    """The address in a `Link: </v2/…>; rel="next"` header, taken verbatim; None without one.

    Raises ValueError when it leads away from the registry.
    """
    matched = re.match(r'\s*<([^>]*)>\s*(?:;.*?\brel="?next"?)', link or "")
    if matched is None:
        return None
    return same_registry(matched[1], current, base)


def named_url(location: str, current: URL) -> URL:
    """A `Link` or `Location`, taken verbatim. Raises ValueError for what is none."""
    if not _IN_A_LINE.fullmatch(location):
        raise ValueError(f"{location[:200]!a} is no URL")
    return current.join(URL(location, encoded=True))


def same_registry(location: str, current: URL, base: URL) -> URL:
    """A `Link` or `Location` of the registry as a URL. Raises ValueError when it leads elsewhere.

    It has the prefix of `base`, or none of it: a proxy may serve a registry below a path that the
    registry itself knows nothing of. Nor need a registry know of the TLS in front of it: what it calls
    http at the host of an https `base` is asked for at `base`.
    """
    target = named_url(location, current)
    prefix = _prefix(base.raw_path)
    # `origin` leaves out a user and password, which would take the place of ours.
    if not _names_somebody(target) and (
        target.origin() == base.origin()
        or (base.scheme, target.scheme, target.host) == ("https", "http", base.host)
    ):
        for known in (prefix, ""):
            if target.raw_path.startswith(f"{known}/v2/"):
                query = f"?{target.raw_query_string}" if target.raw_query_string else ""
                path = target.raw_path.removeprefix(known)
                return URL(f"{base.origin()}{prefix}{path}{query}", encoded=True)
    raise ValueError(f"{location[:200]!a} leads away from the registry")
