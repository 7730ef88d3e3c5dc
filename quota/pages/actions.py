"""What a page can do: clean now. Every form carries proof that it came from a page of ours."""

from aiohttp import hdrs, web

from quota.pages.render import HEADERS, workspace_path
from quota.pages.sessions import Visitor
from quota.pages.visits import Visits
from quota.pages.workspaces import Workspaces
from quota.runs import Runs

_STARTED_SECONDS = 0.5
"""What a cleanup gets before the page shows how it goes."""


class Actions:
    """Handlers that write; scope `write`."""

    def __init__(self, *, runs: Runs, workspaces: Workspaces, visits: Visits) -> None:
        self._runs = runs
        self._workspaces = workspaces
        self._visits = visits

    def routes(self) -> list[web.RouteDef]:
        """Where the forms go."""
        workspace = "/workspaces/{workspace:[^/]+}"
        return [web.post(f"{workspace}/cleanups", self._visits.form(self.clean))]

    async def clean(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """Clean now, as `POST …/cleanups` does."""
        view = await self._workspaces.view(request, visitor, "write")
        await self._runs.clean(view, _STARTED_SECONDS)
        return see(workspace_path(view.name))


def see(address: str) -> web.Response:
    """Go and look there."""
    return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: address})
