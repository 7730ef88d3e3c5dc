"""How we show a registry who we are: Basic, or Bearer tokens fetched from the realm it names.

A challenge is text from outside. Credentials and requests go only to a realm that is on the
registry's own host or on a host that the configuration allows, and never from https to http.
"""

import re
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from registry.address import host_allowed
from registry.errors import RegistryDenied, RegistryUnavailable, WrongContent, WrongRealm
from runtime.errors import text_of
from runtime.tls import advice

_DEFAULT_LIFETIME: Final = 60.0
"""Seconds that a token without `expires_in` is good for (the token specification's default)."""
_MARGIN: Final = 10.0
"""Seconds before its end at which a token is not used any more."""
_MAX_TOKEN_BYTES: Final = 1024 * 1024
_MAX_CACHED: Final = 10_000

_CORRECT_REALM: Final = (
    "let `auth.token.realm` of the registry's configuration be an address that is reachable from here, by "
    "TLS where the registry is"
)

_SCHEME = re.compile(r"\s*(Basic|Bearer)\b", re.IGNORECASE)
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One `WWW-Authenticate` header: scheme in lower case, parameters by lower-case name."""

    scheme: str
    parameters: dict[str, str]


class _Token(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """The Basic and Bearer challenges of the `WWW-Authenticate` headers, Bearer first."""
    found = []
    for header in headers:
        matched = _SCHEME.match(header)
        if matched:
            parameters = {
                name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare
                for name, quoted, bare in _PARAMETER.findall(header, matched.end())
            }
            found.append(Challenge(matched[1].lower(), parameters))
    return sorted(found, key=lambda challenge: challenge.scheme != "bearer")


class Authorizer:
    """Keeps what has been learned about getting in, for one registry."""

    def __init__(
        self,
        base: URL,
        *,
        username: str | None = None,
        password: str | None = None,
        token_hosts: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`token_hosts`: `host` or `host:port` of realms allowed besides the registry's own host."""
        self._base = base
        self._basic = (
            "Basic " + b64encode(f"{username}:{password or ''}".encode()).decode()
            if username
            else None
        )
        self._allowed = frozenset(host.lower() for host in token_hosts) | {
            (base.host or "").lower()
        }
        self._clock = clock
        self._use_basic = False
        self._tokens: dict[str, tuple[str, float]] = {}

    def header(self, scope: str) -> str | None:
        """The Authorization header known to be good for `scope`, if any."""
        token, good_until = self._tokens.get(scope, ("", 0.0))
        if self._clock() < good_until:
            return f"Bearer {token}"
        return self._basic if self._use_basic else None

    async def answer(
        self, session: aiohttp.ClientSession, scope: str, challenges: Sequence[str]
    ) -> str:
        """The header that meets a 401's challenges. Raises RegistryDenied when none can be met,
        RegistryUnavailable or WrongContent when the token service fails.
        """
        for challenge in parse_challenges(challenges):
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                token, lifetime = await self._fetch(session, scope, challenge.parameters)
                self._remember(scope, token, lifetime)
                return f"Bearer {token}"
            if challenge.scheme == "basic" and self._basic is not None:
                self._use_basic = True
                return self._basic
        if self._basic is None:
            raise RegistryDenied(
                "the registry wants credentials; set RQ_REGISTRY_USERNAME and RQ_REGISTRY_PASSWORD"
            )
        raise RegistryDenied("the registry wants a kind of authentication that is not supported")

    def _remember(self, scope: str, token: str, lifetime: float) -> None:
        now = self._clock()
        if len(self._tokens) >= _MAX_CACHED:
            self._tokens = {k: v for k, v in self._tokens.items() if v[1] > now}
            if len(self._tokens) >= _MAX_CACHED:
                self._tokens.clear()
        self._tokens[scope] = (token, now + max(lifetime - _MARGIN, lifetime / 2))

    def _realm(self, text: str) -> URL:
        try:
            realm = URL(text)
            usable = realm.scheme in ("http", "https") and bool(realm.host)
        except ValueError:
            usable = False
        if not usable:
            raise WrongRealm(
                f"the registry names a token realm that is no URL: {text[:200]!a}; {_CORRECT_REALM}"
            )
        if not host_allowed(realm, self._allowed):
            raise WrongRealm(
                f"the registry names a token realm at {realm.host!a}, which is not allowed; "
                "add the host to RQ_REGISTRY_TOKEN_HOSTS if it is right"
            )
        if self._base.scheme == "https" and realm.scheme != "https":
            raise WrongRealm(
                f"the registry names a token realm without TLS: {text[:200]!a}; {_CORRECT_REALM}"
            )
        return realm

    async def _fetch(
        self, session: aiohttp.ClientSession, scope: str, parameters: dict[str, str]
    ) -> tuple[str, float]:
        realm = self._realm(parameters["realm"])
        query = [("service", parameters["service"])] if parameters.get("service") else []
        query += [("scope", part) for part in (parameters.get("scope") or scope).split()]
        headers = {"Authorization": self._basic} if self._basic else {}
        try:
            async with session.get(
                realm.extend_query(query), headers=headers, allow_redirects=False
            ) as response:
                if response.status in (400, 401, 403, 404):
                    raise RegistryDenied(f"the token service answered {response.status}")
                if response.status != 200:
                    raise RegistryUnavailable(f"the token service answered {response.status}")
                body = b""
                async for chunk in response.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > _MAX_TOKEN_BYTES:
                        raise WrongContent("the token service's answer is far too large")
        except (aiohttp.ClientError, TimeoutError) as error:
            mend = f" ({told})" if (told := advice(error)) else ""
            raise RegistryUnavailable(
                f"the token service does not answer: {text_of(error)}{mend}"
            ) from error
        try:
            answer = msgspec.json.decode(body, type=_Token)
        except (msgspec.DecodeError, RecursionError) as error:
            raise WrongContent(f"the token service's answer is not a token: {error}") from None
        token = answer.token or answer.access_token or ""
        if not _HEADER_SAFE.fullmatch(token):
            raise WrongContent("the token service's answer holds no token")
        lifetime = answer.expires_in if answer.expires_in and answer.expires_in > 0 else None
        return token, min(lifetime or _DEFAULT_LIFETIME, 24 * 3600.0)
