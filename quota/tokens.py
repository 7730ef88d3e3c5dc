"""API tokens: made, shown once, checked on every call, revoked.

A token reads `rq_ID_SECRET`. Its row is found by the id and its secret compared by hash in constant
time. Every call reads the row, so that a revocation counts from the next call on, in every process.
"""

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from secrets import token_hex

from ledger import tokens
from ledger.tokens import Token
from quota.access import Principal, hash_secret
from quota.bounds import TooMuchError
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool

log = get_logger(__name__)

LAST_USE_EVERY = timedelta(minutes=1)
"""How exact `last_used_at` is: a write a minute and token, not one a request."""

_REMEMBERED_FOR = timedelta(minutes=5)
_REMEMBERED = 10_000
_PREFIX, _ID_BYTES, _SECRET_BYTES = "rq", 8, 32
_NOBODY = hash_secret("")


class Tokens:
    """Makes, lists, revokes and checks tokens."""

    def __init__(
        self,
        pool: Pool,
        *,
        clock: Callable[[], datetime],
        random_hex: Callable[[int], str] = token_hex,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._random_hex = random_hex
        self._remembered: dict[str, tuple[Token, datetime]] = {}

    async def create(
        self,
        *,
        scopes: Sequence[str],
        workspaces: Sequence[str] | None,
        name: str,
        ttl: timedelta | None,
        created_by: str,
    ) -> tuple[Token, str]:
        """A new token: what is kept of it, and its text, which nobody can show again. Or TooMuchError."""
        now = self._clock()
        token_id, secret = self._random_hex(_ID_BYTES), self._random_hex(_SECRET_BYTES)
        token = Token(
            id=token_id,
            secret_hash=hash_secret(secret),
            name=name,
            scopes=tuple(dict.fromkeys(scopes)),
            workspaces=None if workspaces is None else tuple(dict.fromkeys(workspaces)),
            created_by=created_by,
            created_at=now,
            expires_at=None if ttl is None else now + ttl,
            revoked_at=None,
            last_used_at=None,
        )
        async with self._pool.acquire() as connection:
            added = await tokens.add(connection, token)
        if not added:
            raise TooMuchError(
                "name",
                f"{created_by} has made {tokens.MOST_OF_A_MAKER} tokens that are good still or were made"
                " within a day, which is as many as one may: revoke what nobody uses, or wait a day",
            )
        log.info("token_created", token=token_id, scopes=list(token.scopes), by=created_by)
        return token, f"{_PREFIX}_{token_id}_{secret}"

    async def list(self, caller: Principal, *, after: str, limit: int) -> list[Token]:
        """Tokens by id, those alone that are good for nothing beyond the caller's workspaces."""
        async with self._pool.acquire() as connection:
            return await tokens.page(connection, within=_within(caller), after=after, limit=limit)

    async def revoke(self, caller: Principal, token_id: str) -> bool:
        """End a token; False when there is none that the caller may see."""
        async with self._pool.acquire() as connection:
            done = await tokens.revoke(
                connection, token_id, within=_within(caller), now=self._clock()
            )
        if done:
            self._remembered.pop(token_id, None)
            log.info("token_revoked", token=token_id, by=caller.name)
        return done

    async def authenticate(self, given: str) -> Principal | None:
        """Who holds this token, or None when it is unknown, revoked or expired."""
        prefix, _, rest = given.partition("_")
        token_id, _, secret = rest.partition("_")
        if prefix != _PREFIX or len(token_id) != 2 * _ID_BYTES or not token_id.isalnum():
            return None
        now = self._clock()
        token = await self._find(token_id, now)
        expected = _NOBODY if token is None else token.secret_hash
        if not hmac.compare_digest(hash_secret(secret), expected) or token is None:
            return None
        return _holder(token, now)

    async def holder(self, token_id: str) -> Principal | None:
        """Who holds the token with an id that was checked before: a session that began with it."""
        if len(token_id) != 2 * _ID_BYTES or not token_id.isalnum():
            return None
        now = self._clock()
        token = await self._find(token_id, now)
        return None if token is None else _holder(token, now)

    async def _find(self, token_id: str, now: datetime) -> Token | None:
        """The row as it stands; while the database is away, as it stood minutes ago.

        A build must not be stopped by our database, and nothing can be revoked meanwhile either.
        """
        try:
            async with self._pool.acquire() as connection:
                token = await tokens.find(connection, token_id)
                if token is not None and (
                    token.last_used_at is None or token.last_used_at < now - LAST_USE_EVERY
                ):
                    await tokens.used(connection, token_id, now=now, every=LAST_USE_EVERY)
        except UNAVAILABLE:
            remembered, since = self._remembered.get(token_id, (None, now))
            if remembered is None or now - since > _REMEMBERED_FOR:
                raise
            return remembered
        self._remember(token_id, token, now)
        return token

    def _remember(self, token_id: str, token: Token | None, now: datetime) -> None:
        self._remembered.pop(token_id, None)
        if token is not None:
            self._remembered[token_id] = (token, now)
            if len(self._remembered) > _REMEMBERED:
                del self._remembered[next(iter(self._remembered))]


def _holder(token: Token, now: datetime) -> Principal | None:
    if token_state(token, now) != "active":
        return None
    return Principal(
        f"token {token.id}",
        frozenset(token.scopes),
        None if token.workspaces is None else frozenset(token.workspaces),
    )


def token_state(token: Token, now: datetime) -> str:
    """`active`, `expired` or `revoked`."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "active"


def _within(caller: Principal) -> Sequence[str] | None:
    return None if caller.workspaces is None else sorted(caller.workspaces)
