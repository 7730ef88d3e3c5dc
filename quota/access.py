"""Who may do what, on every door: bearer tokens, scopes, workspaces. An unset token opens no door.

Three kinds of secret end in a Principal: the operator's token (`RQ_API_TOKEN`), the internal key of a
build platform (`RQ_INTERNAL_API_KEY`), and tokens that were created (quota/tokens). Each door says
which of them it takes.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from runtime.logs import Sparingly, get_logger

log = get_logger(__name__)

SCOPES = ("read", "hook", "write", "admin")
"""`read` looks, `hook` asks before builds and reserves, `write` cleans and records, `admin` sets quotas,
maps repositories, makes tokens, and may do all the others."""


class Principal(msgspec.Struct, frozen=True):
    """Whoever holds a token. `workspaces` None: all of them."""

    name: str
    scopes: frozenset[str]
    workspaces: frozenset[str] | None = None

    def has(self, scope: str) -> bool:
        """Whether this scope is granted, wherever."""
        return bool(self.scopes & {scope, "admin"})

    def may(self, scope: str, workspace: str | None) -> bool:
        """Whether this scope is granted, for this workspace (None: for all)."""
        if not self.has(scope):
            return False
        return self.workspaces is None or (workspace is not None and workspace in self.workspaces)

    def covers(self, workspaces: Iterable[str] | None) -> bool:
        """Whether all these workspaces (None: all there are) are among its own."""
        if self.workspaces is None:
            return True
        return workspaces is not None and self.workspaces.issuperset(workspaces)


class Refusals:
    """The log's lines about those who were not let in, at one door."""

    def __init__(self, door: str) -> None:
        self._door = door
        self._unknown = Sparingly(log, "token_refused")
        self._forbidden = Sparingly(log, "access_refused")

    def unknown(self, **about: object) -> None:
        """No token, or one that is not good (any more)."""
        self._unknown.tell(door=self._door, **about)

    def forbidden(self, principal: Principal, scope: str, workspace: str | None = None) -> None:
        """A good token without this scope, or not for this workspace."""
        self._forbidden.tell(door=self._door, by=principal.name, scope=scope, workspace=workspace)


Authenticate = Callable[[str], Awaitable[Principal | None]]
"""Token → principal, or None."""


def operator_tokens(tokens: Iterable[str]) -> Authenticate:
    """Authentication by the tokens of `RQ_API_TOKEN`, which have all scopes."""
    return _secrets(tokens, Principal("operator", frozenset(SCOPES)))


def internal_keys(keys: Iterable[str]) -> Authenticate:
    """Authentication by the keys of `RQ_INTERNAL_API_KEY`: a platform that builds for all workspaces."""
    return _secrets(keys, Principal("internal", frozenset(SCOPES) - {"admin"}))


def any_of(*ways: Authenticate) -> Authenticate:
    """Whatever the first of them says yes to."""

    async def authenticate(given: str) -> Principal | None:
        for way in ways:
            principal = await way(given)
            if principal is not None:
                return principal
        return None

    return authenticate


def hash_secret(secret: str) -> bytes:
    """SHA-256 of a secret. Ours have 256 random bits: a slow hash would only slow us down."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _secrets(secrets: Iterable[str], principal: Principal) -> Authenticate:
    expected = [hash_secret(secret) for secret in secrets]

    async def authenticate(given: str) -> Principal | None:
        hashed = hash_secret(given)
        # Every one is compared, whichever fits: the time taken tells nothing.
        fits = [hmac.compare_digest(hashed, other) for other in expected]
        return principal if any(fits) else None

    return authenticate
