"""The HTTP doors' way of asking who calls: 401, 403, and 404 for what belongs to others."""

from aiohttp import web

from quota.access import Authenticate, Principal, Refusals
from quota.api.problems import CALLER, ProblemError
from quota.api.requests import workspace_of

_refusals = Refusals("api")


def bearer(request: web.Request) -> str:
    """The bearer token of a request. Raises ProblemError 401 when there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        _refusals.unknown(path=request.rel_url.raw_path, remote=request.remote)
        raise unauthorized("send the header `Authorization: Bearer TOKEN`")
    return token


def unauthorized(detail: str) -> ProblemError:
    """The 401 answer."""
    return ProblemError(401, detail, headers={"WWW-Authenticate": 'Bearer realm="registry-quota"'})


async def identify(request: web.Request, authenticate: Authenticate, scope: str) -> Principal:
    """The caller, when its token has the scope. Raises ProblemError 401 or 403."""
    principal = await authenticate(bearer(request))
    if principal is None:
        _refusals.unknown(path=request.rel_url.raw_path, remote=request.remote)
        raise unauthorized("this token is not known (or it was revoked, or has expired)")
    request[CALLER] = principal.name
    if not principal.has(scope):
        _refusals.forbidden(principal, scope)
        raise ProblemError(403, f"this token lacks the scope `{scope}`")
    return principal


def enter(principal: Principal, scope: str, workspace: str) -> None:
    """Raises ProblemError 404 for somebody else's workspace: that it exists is its owners' business."""
    if not principal.may(scope, workspace):
        _refusals.forbidden(principal, scope, workspace)
        raise ProblemError(404, f"there is no workspace {workspace!r}")


def enter_holder(principal: Principal, scope: str, holder: str) -> None:
    """Raises ProblemError 404 when a repository is somebody else's; whose it is is not told."""
    if not principal.may(scope, holder):
        _refusals.forbidden(principal, scope, holder)
        raise ProblemError(404, "this repository belongs to a workspace that is not yours")


async def entered(
    request: web.Request, authenticate: Authenticate, scope: str
) -> tuple[str, frozenset[str] | None]:
    """The name of the path's workspace, when the caller may enter it; it may not exist yet.

    Beside it those that the caller may hear of (None: all).
    """
    caller = await identify(request, authenticate, scope)
    name = workspace_of(request)
    enter(caller, scope, name)
    return name, caller.workspaces
