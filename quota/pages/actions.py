"""What a page can do: clean as shown, put back. Every form carries proof that it came from a page of ours."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from uuid import UUID

from aiohttp import hdrs, web

from ledger.reading import WorkspaceView
from quota.api.problems import ProblemError
from quota.api.requests import form_of
from quota.going import going_of
from quota.pages.render import HEADERS, Renderer, workspace_path
from quota.pages.sessions import Visitor
from quota.pages.visits import Visits
from quota.pages.workspaces import Workspaces
from quota.restore import NothingKeptError, Restorer, StillRunningError
from quota.runs import NoSuchPlanError, PlanExpiredError, PlanRefusedError, Runs

_BEGUN_SECONDS = 30.0
"""How long it may take until a plan is checked and its run begun; then the page shows how it goes."""


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
            web.post(f"{workspace}/cleanup-plans", self._visits.form(self.plan)),
            web.get(f"{workspace}/cleanup-plans/{{id}}", self._visits.page(self.show_plan)),
            web.post(f"{workspace}/cleanups", self._visits.form(self.clean)),
            web.post(f"{workspace}/cleanups/{{id}}/restore", self._visits.form(self.restore)),
        ]

    async def plan(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """Clean now: what would go, stored, to be looked at and agreed to."""
        view = await self._workspaces.view(request, visitor, "write")
        return await self._ask(view, visitor)

    async def show_plan(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """A stored plan: what goes, how old it is, when it was pulled, who uses it; and the question."""
        view = await self._workspaces.view(request, visitor, "read")
        try:
            plan = await self._runs.stored_plan(view, UUID(request.match_info["id"]))
        except (ValueError, NoSuchPlanError) as error:
            raise _no_such_plan() from error
        return self._page(view, visitor, plan)

    async def clean(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """Carry out exactly the plan that was shown, as `POST …/cleanups` with its id does."""
        view = await self._workspaces.view(request, visitor, "write")
        shown = (await form_of(request)).get("plan")
        if shown is None:  # a page of an earlier release: nothing goes that was not shown
            return await self._ask(view, visitor)
        try:
            plan_id = UUID(shown)
            await self._runs.apply(view, plan_id, _BEGUN_SECONDS, begin_only=True)
        except (ValueError, NoSuchPlanError) as error:
            raise _no_such_plan() from error
        except PlanExpiredError:
            plan = await self._runs.stored_plan(view, plan_id)
            return self._page(view, visitor, plan, refused=["it is older than 15 minutes"])
        except PlanRefusedError as error:
            plan = await self._runs.stored_plan(view, plan_id)
            return self._page(view, visitor, plan, refused=error.reasons)
        # And look at it.
        return _to(workspace_path(view.name))

    async def _ask(self, view: WorkspaceView, visitor: Visitor) -> web.Response:
        plan = await self._runs.plan(view, by=visitor.name)
        return _to(workspace_path(view.name, "cleanup-plans", plan["id"]))

    def _page(
        self,
        view: WorkspaceView,
        visitor: Visitor,
        plan: dict[str, Any],
        *,
        refused: Sequence[str] = (),
    ) -> web.Response:
        return self._renderer.page(
            "cleanup_plan.html",
            status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
            visitor=visitor,
            view=view,
            path=workspace_path(view.name),
            may_write=visitor.principal.may("write", view.name),
            plan=plan,
            going=going_of(plan),
            refused=refused,
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


def _to(path: str) -> web.Response:
    return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: path})


def _no_such_plan() -> ProblemError:
    return ProblemError(404, "There is no such plan in this workspace. Plans are kept for a day.")
