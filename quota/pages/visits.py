"""The way into every page: who looks, what to answer those who may not, errors as pages."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

from aiohttp import hdrs, web

from quota.api.describe import describe
from quota.api.problems import CALLER, ProblemError
from quota.api.requests import form_of
from quota.pages.render import HEADERS, Renderer
from quota.pages.sessions import COOKIE, Sessions, Visitor
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE

log = get_logger(__name__)

PageHandler = Callable[[web.Request, Visitor], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SIGN_IN: Final = "/sign-in"


class Visits:
    """Wraps a page's handler: it is called with a visitor, or not at all."""

    def __init__(self, sessions: Sessions, renderer: Renderer) -> None:
        self._sessions = sessions
        self._renderer = renderer

    def page(self, handler: PageHandler) -> Handler:
        """A page that has to be signed in for."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            visitor = None
            try:
                visitor = await self._sessions.visitor(request)
                if visitor is None:
                    return _to_sign_in(request)
                request[CALLER] = visitor.name
                return await handler(request, visitor)
            except ProblemError as error:
                return self.problem(request, visitor, error.status, error.detail)
            except UNAVAILABLE as error:
                return self._away(request, visitor, error)
            except web.HTTPException:
                raise
            except Exception:
                log.exception("page_failed", path=request.path)
                return self.problem(
                    request, visitor, 503, "Something went wrong on our side; it is in the log."
                )

        return _hidden(handler.__doc__ or "A page.")(guarded)

    def form(self, handler: PageHandler) -> Handler:
        """What a form of ours is sent to: nobody else's may be."""

        async def checked(request: web.Request, visitor: Visitor) -> web.StreamResponse:
            if not self._sessions.may_write(request, await form_of(request)):
                raise ProblemError(
                    403, "This form is out of date, or came from elsewhere. Reload the page."
                )
            return await handler(request, visitor)

        return self.page(checked)

    def open(self, handler: Handler) -> Handler:
        """A page for everybody: sign-in."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except ProblemError as error:
                return self.problem(request, None, error.status, error.detail)
            except UNAVAILABLE as error:
                return self._away(request, None, error)

        return _hidden(handler.__doc__ or "A page.")(guarded)

    def _away(
        self, request: web.Request, visitor: Visitor | None, error: BaseException
    ) -> web.Response:
        log.warning("database_away", path=request.path, reason=repr(error))
        return self.problem(
            request, visitor, 503, "The database does not answer. Try again shortly."
        )

    def problem(
        self, request: web.Request, visitor: Visitor | None, status: int, detail: str
    ) -> web.Response:
        """An error as a page (or a part of one)."""
        return self._renderer.page(
            "parts/error.html" if is_part(request) else "error.html",
            status=status,
            title=HTTPStatus(status).phrase,
            detail=detail,
            visitor=visitor,
        )


def is_part(request: web.Request) -> bool:
    """Whether a script of ours asks for a part of a page, to put it into its place."""
    return request.headers.get("HX-Request") == "true"


def local_path(text: str | None) -> str:
    """Where to go after sign-in: an address of ours, never another host's."""
    if not text or not text.startswith("/") or text.startswith("//") or not text.isprintable():
        return "/"
    return "/" if "\\" in text or len(text) > 2000 else text


def _to_sign_in(request: web.Request) -> web.StreamResponse:
    query = {"ended": "1"} if request.cookies.get(COOKIE) else {}
    if request.method == "GET" and not is_part(request) and request.path_qs != "/":
        query["next"] = request.path_qs
    if is_part(request):
        # The whole page moves on to the sign-in, not the part that was to be replaced.
        return web.Response(
            status=401,
            headers={**HEADERS, "HX-Redirect": f"{SIGN_IN}?ended=1"},
        )
    address = f"{SIGN_IN}?{urlencode(query)}" if query else SIGN_IN
    return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: address})


def _hidden(summary: str) -> Callable[[Handler], Handler]:
    return describe("pages", summary, scope=None, answers={200: str}, hidden=True)
