"""Who may do what: bearer tokens, compared in constant time. An unset token opens no door."""

import hmac
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from quota.api.problems import ProblemError

SCOPES = ("read", "hook", "write", "admin")


class Principal(msgspec.Struct, frozen=True):
    """Whoever holds a token. `workspaces` None: all of them."""

    name: str
    scopes: frozenset[str]
    workspaces: frozenset[str] | None = None

    def may(self, scope: str, workspace: str | None) -> bool:
        """Whether this scope is granted, for this workspace (None: for all)."""
        if not self.scopes & {scope, "admin"}:
            return False
        return self.workspaces is None or (workspace is not None and workspace in self.workspaces)


Authenticate = Callable[[str], Awaitable[Principal | None]]
"""Token → principal, or None."""


def operator_token(token: str) -> Authenticate:
    """Authentication by the one token of the settings, which has all scopes."""
    expected = token.encode()

    async def authenticate(given: str) -> Principal | None:
        if hmac.compare_digest(given.encode(errors="surrogateescape"), expected):
            return Principal("operator", frozenset(SCOPES))
        return None

    return authenticate


def bearer(request: web.Request) -> str:
    """The bearer token of a request. Raises ProblemError 401 when there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise unauthorized("send the header `Authorization: Bearer TOKEN`")
    return token


def unauthorized(detail: str) -> ProblemError:
    """The 401 answer."""
    return ProblemError(401, detail, headers={"WWW-Authenticate": 'Bearer realm="registry-quota"'})


async def identify(request: web.Request, authenticate: Authenticate, scope: str) -> Principal:
    """The caller, when its token has the scope. Raises ProblemError 401 or 403."""
    principal = await authenticate(bearer(request))
    if principal is None:
        raise unauthorized("this token is not known (or it was revoked)")
    if not principal.scopes & {scope, "admin"}:
        raise ProblemError(403, f"this token lacks the scope `{scope}`")
    return principal


def enter(principal: Principal, scope: str, workspace: str) -> None:
    """Raises ProblemError 404 for somebody else's workspace: that it exists is its owners' business."""
    if not principal.may(scope, workspace):
        raise ProblemError(404, f"there is no workspace {workspace!r}")
