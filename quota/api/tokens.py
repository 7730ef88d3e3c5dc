"""Routes of API tokens. A token's secret is in the answer that made it, and nowhere else."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from ledger.tokens import Token
from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.access import identify
from quota.api.answers import answer
from quota.api.describe import CURSOR, describe, limit
from quota.api.models import NewTokenAnswer, Page, TokenAnswer
from quota.api.problems import ProblemError
from quota.api.requests import TokenRequest, body_of, number, text
from quota.tokens import Tokens, token_state


class TokenRoutes:
    """`/v1/tokens`: scope `admin`. Whoever has some workspaces deals with tokens of those alone."""

    def __init__(
        self,
        tokens: Tokens,
        accounts: Accounts,
        *,
        authenticate: Authenticate,
        clock: Callable[[], datetime],
    ) -> None:
        self._tokens = tokens
        self._accounts = accounts
        self._authenticate = authenticate
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """Create, list, revoke."""
        return [
            web.post("/v1/tokens", self.create),
            web.get("/v1/tokens", self.list),
            web.delete("/v1/tokens/{id}", self.revoke),
        ]

    @describe(
        "tokens",
        "Make a token; its text is in this answer and never again.",
        scope="admin",
        body=TokenRequest,
        answers={201: NewTokenAnswer},
        problems=(409,),
        details="Needs `admin` on every workspace that the new token is good for.",
    )
    async def create(self, request: web.Request) -> web.Response:
        """Scope `admin`, on every workspace that the new token is good for."""
        caller = await identify(request, self._authenticate, "admin")
        body = await body_of(request, TokenRequest)
        if not caller.covers(body.workspaces):
            message = "only workspaces that your own token is good for"
            raise ProblemError(
                403,
                f"workspaces: {message}",
                errors=[{"field": "workspaces", "message": message}],
            )
        token, secret = await self._tokens.create(
            scopes=body.scopes,
            workspaces=body.workspaces,
            name=body.name,
            ttl=None if body.ttl_s is None else timedelta(seconds=body.ttl_s),
            created_by=caller.name,
        )
        warnings = await self._accounts.unknown(body.workspaces or (), caller.workspaces)
        return answer({"token": secret, **self._document(token), "warnings": warnings}, status=201)

    @describe(
        "tokens",
        "Tokens by id, also those that are revoked or expired.",
        scope="admin",
        query=(limit(100), CURSOR),
        answers={200: Page[TokenAnswer]},
    )
    async def list(self, request: web.Request) -> web.Response:
        """Scope `admin`; by id, also those that are revoked or expired."""
        caller = await identify(request, self._authenticate, "admin")
        limit = number(request, "limit", default=100, low=1, high=1000)
        after = text(request, "cursor") or ""
        found = await self._tokens.list(caller, after=after, limit=limit + 1)
        more, found = len(found) > limit, found[:limit]
        return answer(
            {
                "items": [self._document(token) for token in found],
                "next_cursor": found[-1].id if more else None,
            }
        )

    @describe(
        "tokens",
        "End a token: it counts from the next call on, and may be repeated.",
        scope="admin",
        answers={204: None},
    )
    async def revoke(self, request: web.Request) -> web.Response:
        """Scope `admin`; counts from the next call on, and may be repeated."""
        caller = await identify(request, self._authenticate, "admin")
        token_id = request.match_info["id"]
        if not token_id.isalnum() or not await self._tokens.revoke(caller, token_id):
            raise ProblemError(404, "there is no such token")
        return web.Response(status=204)

    def _document(self, token: Token) -> dict[str, Any]:
        return {
            "id": token.id,
            "name": token.name,
            "scopes": list(token.scopes),
            "workspaces": None if token.workspaces is None else list(token.workspaces),
            "state": token_state(token, self._clock()),
            "created_by": token.created_by,
            "created_at": token.created_at,
            "expires_at": token.expires_at,
            "revoked_at": token.revoked_at,
            "last_used_at": token.last_used_at,
        }
