"""What a page can do: clean now, put back. Every form carries proof that it came from a page of ours."""

from uuid import UUID

from aiohttp import hdrs, web

from quota.api.problems import ProblemError
from quota.pages.render import HEADERS, Renderer, workspace_path
from quota.pages.sessions import Visitor
from quota.pages.visits import Visits
from quota.pages.workspaces import Workspaces
from quota.restore import NothingKeptError, Restorer, StillRunningError
from quota.runs import Runs

_STARTED_SECONDS = 0.5
"""What a cleanup gets before the page shows how it goes."""


class Actions:
    """Handlers that write; scope `write`."""

    def __init__(
        self,
        *,
        runs: Runs,
        restorer: Restorer,
        workspaces: Workspaces,
        visits: Visits,
        renderer: Renderer,
    ) -> None:
        self._runs = runs
        self._restorer = restorer
        self._workspaces = workspaces
        self._visits = visits
        self._renderer = renderer

    def routes(self) -> list[web.RouteDef]:
        """Where the forms go."""
        workspace = "/workspaces/{workspace:[^/]+}"
        return [
            web.post(f"{workspace}/cleanups", self._visits.form(self.clean)),
            web.post(f"{workspace}/cleanups/{{id}}/restore", self._visits.form(self.restore)),
        ]

    async def clean(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """Clean now, as `POST …/cleanups` does."""
        view = await self._workspaces.view(request, visitor, "write")
        await self._runs.clean(view, _STARTED_SECONDS)
        # And look at it.
        return web.Response(
            status=303, headers={**HEADERS, hdrs.LOCATION: workspace_path(view.name)}
        )

    async def restore(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """Put back what a cleanup deleted, as `POST …/restores` does, and say what became of it."""
        view = await self._workspaces.view(request, visitor, "write")
        try:
            done = await self._restorer.run(view, UUID(request.match_info["id"]))
        except (ValueError, NothingKeptError) as error:
            raise ProblemError(404, "There is no such cleanup in this workspace.") from error
        except StillRunningError as error:
            raise ProblemError(409, "The cleanup is still running; wait for its end.") from error
        return self._renderer.page(
            "restored.html",
            visitor=visitor,
            view=view,
            path=workspace_path(view.name),
            run_id=request.match_info["id"],
            done=done,
        )
