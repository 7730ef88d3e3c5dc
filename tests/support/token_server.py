"""A small real token server, as registries send their clients to: passwords in, signed JWTs out.

https://distribution.github.io/distribution/spec/auth/token/ and .../jwt/
"""

import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import BasicAuth, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tests.support.certificates import Pair

SERVICE = "registry.example.com"
ISSUER = "auth.example.com"
LIFETIME = 120


@dataclass(frozen=True)
class Account:
    """Who may get in, and what for, in every repository."""

    password: str
    actions: frozenset[str]
    catalog: bool = False


@dataclass
class TokenServer:
    """`/token` at `url`; `asked` are the scopes of each request."""

    url: str
    certificate: Path
    accounts: Mapping[str, Account]
    asked: list[list[str]] = field(default_factory=list)


@asynccontextmanager
async def token_server(pair: Pair, accounts: Mapping[str, Account]) -> AsyncIterator[TokenServer]:
    """One whose tokens are signed by the pair's key; registries trust its `certificate`."""
    server = TokenServer("", pair.certificate, accounts)

    async def token(request: web.Request) -> web.Response:
        scopes = request.query.getall("scope", [])
        server.asked.append(scopes)
        try:
            who = BasicAuth.decode(request.headers["Authorization"])
        except (KeyError, ValueError):
            return web.Response(status=401)
        account = accounts.get(who.login)
        if account is None or not secrets.compare_digest(account.password, who.password):
            return web.Response(status=401)
        if request.query.get("service") != SERVICE:
            return web.Response(status=400)
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": who.login,
            "aud": SERVICE,
            "exp": now + LIFETIME,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [_grant(scope, account) for scope in scopes],
        }
        return web.json_response({"token": _signed(claims, pair), "expires_in": LIFETIME})

    app = web.Application()
    app.router.add_get("/token", token)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
        yield server
    finally:
        await runner.cleanup()


def _grant(scope: str, account: Account) -> dict[str, object]:
    """`repository:a/b:pull,push` → what of it this account gets."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    asked = set(actions.split(","))
    if kind == "repository":
        granted = asked & account.actions
    else:
        granted = asked if account.catalog and (kind, name) == ("registry", "catalog") else set()
    return {"type": kind, "name": name, "actions": sorted(granted)}


def _signed(claims: Mapping[str, object], pair: Pair) -> str:
    """A JWT by ES256 with its chain in the header (`x5c`)."""
    chain = x509.load_pem_x509_certificates(pair.certificate.read_bytes())
    key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    der = serialization.Encoding.DER
    header = {
        "typ": "JWT",
        "alg": "ES256",
        "x5c": [base64.b64encode(item.public_bytes(der)).decode() for item in chain],
    }
    head, body = (_base64url(json.dumps(part).encode()) for part in (header, claims))
    r, s = utils.decode_dss_signature(
        key.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
    )
    return f"{head}.{body}.{_base64url(r.to_bytes(32) + s.to_bytes(32))}"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
