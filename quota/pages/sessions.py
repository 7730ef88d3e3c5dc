"""Who looks at a page: a signed cookie after sign-in with a token, or a header of a trusted proxy.

The cookie holds no token, only whose session it is until when, signed by a key that follows from
`RQ_API_TOKEN`. Whose it is gets looked up on every request: a token that was revoked, has expired or was
taken out of the settings ends its sessions at once.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from itsdangerous import BadSignature, URLSafeSerializer

from quota.access import Authenticate, Principal

COOKIE: Final = "rq_session"
_OPERATOR: Final = "operator"
_OF_TOKEN: Final = "token "  # noqa: S105 - the beginning of a name
_CSRF_FIELD: Final = "csrf"


class Visitor(msgspec.Struct, frozen=True):
    """Somebody who is signed in."""

    principal: Principal
    name: str
    """For the page's head."""
    csrf: str
    """What a form has to send back."""
    by_cookie: bool
    """Whether signing out means anything here."""


class Proxy(msgspec.Struct, frozen=True):
    """A reverse proxy that has signed people in. Without `addresses` there is none."""

    addresses: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    user_header: str = "X-Forwarded-User"
    workspaces_header: str | None = None
    """Names of workspaces by commas, or `*`; None: everybody sees all workspaces."""
    scope: str = "read"

    def visitor_of(self, request: web.Request) -> Principal | None:
        """Whom the proxy names; None when it names nobody or the request is not from it."""
        if not self._trusts(request.remote):
            return None
        name = request.headers.get(self.user_header, "").strip()
        if not name:
            return None
        workspaces: frozenset[str] | None = None
        if self.workspaces_header is not None:
            listed = {
                part.strip() for part in request.headers.get(self.workspaces_header, "").split(",")
            } - {""}
            workspaces = None if listed == {"*"} else frozenset(listed)
        return Principal(f"proxy {name}", frozenset({"read", self.scope}), workspaces)

    def _trusts(self, remote: str | None) -> bool:
        if not self.addresses or remote is None:
            return False
        try:
            address = ipaddress.ip_address(remote)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.addresses)


class Sessions:
    """Makes and reads sessions. One per process; all processes with the same settings agree."""

    def __init__(
        self,
        secrets: Iterable[str],
        *,
        authenticate: Authenticate,
        holder: Callable[[str], Awaitable[Principal | None]],
        proxy: Proxy,
        lifetime: timedelta,
        clock: Callable[[], datetime],
        random_hex: Callable[[int], str] = token_hex,
    ) -> None:
        """`secrets` are the operator's tokens; `holder` finds who has the token with an id."""
        self._operators = tuple(secrets)
        self._serializers = [_serializer(secret) for secret in self._operators]
        self._csrf_keys = [_derive(secret, "csrf") for secret in self._operators]
        self._authenticate = authenticate
        self._holder = holder
        self._proxy = proxy
        self._lifetime = lifetime
        self._clock = clock
        self._random_hex = random_hex

    async def sign_in(self, token: str) -> tuple[Principal, str] | None:
        """Who holds a token, and the cookie's value; None when the token is not known."""
        principal = await self._authenticate(token)
        if principal is None:
            return None
        # Any of the keys is accepted, so that one secret may replace another. An operator's session
        # is signed by the key of its own token: it outlives the others.
        serializer = self._serializers[0]
        if principal.name == _OPERATOR:
            holder = f"{_OPERATOR} {self._fingerprint(token)}"
            if token in self._operators:
                serializer = self._serializers[self._operators.index(token)]
        elif principal.name.startswith(_OF_TOKEN):
            holder = principal.name
        else:
            return None
        expires = self._clock() + self._lifetime
        document = {"h": holder, "i": self._random_hex(16), "e": int(expires.timestamp())}
        return principal, str(serializer.dumps(document))

    @property
    def lifetime(self) -> timedelta:
        """How long a session lasts."""
        return self._lifetime

    async def visitor(self, request: web.Request) -> Visitor | None:
        """Who sent a request, if anybody who may look."""
        proxied = self._proxy.visitor_of(request)
        if proxied is not None:
            return Visitor(
                proxied,
                proxied.name.removeprefix("proxy "),
                self._csrf(self._csrf_keys[0], proxied.name),
                by_cookie=False,
            )
        document = self._read(request.cookies.get(COOKIE))
        if document is None or document["e"] <= self._clock().timestamp():
            return None
        principal = await self._whose(document["h"])
        if principal is None or not principal.has("read"):
            return None
        return Visitor(
            principal, principal.name, self._csrf(self._csrf_keys[0], document["i"]), by_cookie=True
        )

    def may_write(self, request: web.Request, form: Mapping[str, str]) -> bool:
        """Whether a form was sent from a page of ours to this session (no forgery across sites)."""
        proxied = self._proxy.visitor_of(request)
        if proxied is not None:
            subject = proxied.name
        else:
            document = self._read(request.cookies.get(COOKIE))
            if document is None:
                return False
            subject = document["i"]
        given = form.get(_CSRF_FIELD)
        if given is None or not same_site(request):
            return False
        return given.isascii() and any(
            hmac.compare_digest(self._csrf(key, subject), given) for key in self._csrf_keys
        )

    def _read(self, cookie: str | None) -> dict[str, Any] | None:
        if not cookie or len(cookie) > 1000:
            return None
        for serializer in self._serializers:
            try:
                document: dict[str, Any] = serializer.loads(cookie)
            except BadSignature:
                continue
            return document
        return None

    async def _whose(self, holder: str) -> Principal | None:
        kind, _, rest = holder.partition(" ")
        if kind == _OPERATOR:
            for token in self._operators:
                if hmac.compare_digest(self._fingerprint(token), rest):
                    return await self._authenticate(token)
            return None
        return await self._holder(rest)

    def _fingerprint(self, token: str) -> str:
        """Names an operator's token without telling it."""
        return _derive(token, "fingerprint").hex()[:32]

    @staticmethod
    def _csrf(key: bytes, subject: str) -> str:
        return hmac.new(key, subject.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def same_site(request: web.Request) -> bool:
    """Whether a browser says that a request comes from another site than ours: then False."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"same-origin", "none"}
    # Browsers leave it out where the connection is not encrypted.
    origin = request.headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.host
    except ValueError:  # no browser's
        return False


def _serializer(secret: str) -> URLSafeSerializer:
    return URLSafeSerializer(
        _derive(secret, "session"),
        salt="registry-quota",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _derive(secret: str, purpose: str) -> bytes:
    return hmac.new(
        secret.encode(errors="surrogateescape"),
        f"registry-quota pages {purpose} 1".encode(),
        hashlib.sha256,
    ).digest()
