"""Errors as RFC 9457 `application/problem+json`: what happened, where, what to do next."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import ValidationError

from quota.bounds import TooMuchError
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE

log = get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProblemError(Exception):
    """An answer that is an error. `errors` has one entry a field: {"field", "message"}."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or {}

    def response(self, path: str) -> web.Response:
        """The HTTP answer."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
        }
        if self.errors:
            body["errors"] = self.errors
        return web.Response(
            status=self.status,
            body=msgspec.json.encode(body),
            headers={"Content-Type": "application/problem+json", **self.headers},
        )


def of_validation(error: ValidationError) -> ProblemError:
    """A request that does not fit its model: every wrong field with what is wrong."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    errors = [
        {
            "field": ".".join(str(part) for part in item["loc"]) or "body",
            "message": str(item["msg"]),
        }
        for item in found[:_MOST_LISTED]
    ]
    summary = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:_MOST_NAMED])
    if (more := len(found) - _MOST_NAMED) > 0:
        summary += f"; and {more} more"
    return ProblemError(400, summary, errors=errors)


_MOST_NAMED: Final = 5
"""How many wrong fields a sentence names."""
_MOST_LISTED: Final = 100
"""How many `errors` has: a body may be ten thousand of them."""

Refused = Callable[[str], None]
"""Told of each call that is not let in: `unauthenticated` or `denied`."""

CALLER: Final = web.RequestKey("caller", str)
"""Where a request keeps the name of who sent it, once that is known."""
_CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_REFUSALS: Final = {401: "unauthenticated", 403: "denied"}


def problems(refused: Refused) -> Middleware:
    """Turn every failure into a problem document, and log who changed something."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.rel_url.raw_path
        response = await _answered(request, handler, path)
        if response.status in _REFUSALS:
            refused(_REFUSALS[response.status])
        if request.method in _CHANGING and CALLER in request:
            log.info(
                "call",
                method=request.method,
                path=path,
                status=response.status,
                by=request[CALLER],
                address=request.remote,
            )
        return response

    return middleware


async def _answered(request: web.Request, handler: Handler, path: str) -> web.StreamResponse:
    """Every failure as a problem document; nothing leaks a traceback."""
    try:
        return await handler(request)
    except ProblemError as error:
        return error.response(path)
    except TooMuchError as error:
        wrong = [{"field": error.field, "message": error.message}]
        return ProblemError(409, str(error), errors=wrong).response(path)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return ProblemError(405, f"use {allowed}", headers={"Allow": allowed}).response(path)
    except web.HTTPNotFound:
        return ProblemError(404, "there is nothing at this address").response(path)
    except web.HTTPRequestEntityTooLarge:
        return ProblemError(413, "the body is larger than 1 MiB").response(path)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return ProblemError(error.status, error.reason).response(path)
    except UNAVAILABLE as error:
        log.warning("database_away", path=path, reason=f"{type(error).__name__}: {error}")
        return ProblemError(
            503, "the database does not answer; try again shortly", headers={"Retry-After": "2"}
        ).response(path)
    except Exception:
        log.exception("request_failed", method=request.method, path=path)
        return ProblemError(
            503, "something went wrong on our side; it is in the log", headers={"Retry-After": "5"}
        ).response(path)
