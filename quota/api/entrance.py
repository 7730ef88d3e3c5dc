"""The way into a workspace's routes: who asks, may they, and is it there."""

from aiohttp import web

from ledger.reading import WorkspaceView
from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.access import enter, identify
from quota.api.problems import ProblemError
from quota.api.requests import workspace_of


async def workspace_for(
    request: web.Request, scope: str, *, authenticate: Authenticate, accounts: Accounts
) -> WorkspaceView:
    """The path's workspace, when the caller may enter it. Raises ProblemError 401, 403, 404."""
    caller = await identify(request, authenticate, scope)
    name = workspace_of(request)
    enter(caller, scope, name)
    view = await accounts.workspace(name)
    if view is None:
        raise ProblemError(
            404,
            f"there is no workspace {name!r}: nothing was pushed to it and it has no quota of its own",
        )
    return view
