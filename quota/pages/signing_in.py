"""Sign-in with an API token, and sign-out."""

from aiohttp import hdrs, web

from quota.access import Refusals
from quota.api.requests import form_of
from quota.pages.render import HEADERS, Renderer
from quota.pages.sessions import COOKIE, Sessions, Visitor, same_site
from quota.pages.visits import SIGN_IN, Visits, local_path

_LONGEST_TOKEN = 1000


class SigningIn:
    """`/sign-in` and `/sign-out`."""

    def __init__(self, sessions: Sessions, visits: Visits, renderer: Renderer) -> None:
        self._sessions = sessions
        self._visits = visits
        self._renderer = renderer
        self._refusals = Refusals("pages")

    def routes(self) -> list[web.RouteDef]:
        """A form, where it goes, and the way out."""
        return [
            web.get(SIGN_IN, self._visits.open(self.form)),
            web.post(SIGN_IN, self._visits.open(self.sign_in)),
            web.post("/sign-out", self._visits.form(self.sign_out)),
        ]

    async def form(self, request: web.Request) -> web.StreamResponse:
        """Ask for a token."""
        ended = "ended" in request.query
        return self._page(
            request.query.get("next"),
            notice="Your session has ended. Sign in again." if ended else None,
        )

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Check the token; a session begins."""
        form = await form_of(request)
        token, after = form.get("token"), form.get("next")
        if not same_site(request):
            return self._page(after, problem="This form came from elsewhere.", status=403)
        if token is None or not token.strip():
            return self._page(after, problem="Paste an API token.", status=400)
        token = token.strip()
        found = None
        if len(token) <= _LONGEST_TOKEN and token.isascii() and token.isprintable():
            found = await self._sessions.sign_in(token)
        if found is None:
            self._refusals.unknown(remote=request.remote)
            return self._page(
                after,
                problem="This token is not known, was revoked, or has expired.",
                status=403,
            )
        principal, cookie = found
        if not principal.has("read"):
            self._refusals.forbidden(principal, "read")
            return self._page(
                after, problem="This token lacks the scope “read” that pages need.", status=403
            )
        response = web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: local_path(after)})
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=int(self._sessions.lifetime.total_seconds()),
            httponly=True,
            samesite="Lax",
            secure=_encrypted(request),
            path="/",
        )
        return response

    async def sign_out(self, request: web.Request, _visitor: Visitor) -> web.StreamResponse:
        """End the session in this browser."""
        response = web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: SIGN_IN})
        response.del_cookie(
            COOKIE, path="/", httponly=True, samesite="Lax", secure=_encrypted(request)
        )
        return response

    def _page(
        self,
        after: str | None,
        *,
        notice: str | None = None,
        problem: str | None = None,
        status: int = 200,
    ) -> web.Response:
        return self._renderer.page(
            "sign_in.html",
            status=status,
            visitor=None,
            after=local_path(after),
            notice=notice,
            problem=problem,
        )


def _encrypted(request: web.Request) -> bool:
    """Whether the browser's connection is: also when a proxy in front ends it."""
    return request.secure or request.headers.get("X-Forwarded-Proto") == "https"
