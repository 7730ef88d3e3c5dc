"""Routes of cleanup: plans that are stored, runs, and what became of them."""

from aiohttp import web

from ledger.reading import WorkspaceView
from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.answers import answer, large_answer
from quota.api.describe import CURSOR, describe, limit
from quota.api.entrance import workspace_for
from quota.api.hook import cleanup_document
from quota.api.models import Page, PlanAnswer, RunAnswer, RunWithItems, StartedCleanup
from quota.api.problems import CALLER, ProblemError
from quota.api.requests import (
    CleanupRequest,
    PlanRequest,
    body_of,
    cursor_id,
    identifier,
    number,
)
from quota.runs import (
    NoSuchPlanError,
    PlanExpiredError,
    PlannedBuild,
    PlanRefusedError,
    Runs,
)

_IMAGE_BYTES = 400
"""Of an image in a plan or a run, about."""


class CleanupRoutes:
    """`…/cleanup-plans` and `…/cleanups` of a workspace."""

    def __init__(self, runs: Runs, *, accounts: Accounts, authenticate: Authenticate) -> None:
        self._runs = runs
        self._accounts = accounts
        self._authenticate = authenticate

    def routes(self) -> list[web.RouteDef]:
        """Plan, carry out, look."""
        workspace = "/v1/workspaces/{workspace}"
        return [
            web.post(f"{workspace}/cleanup-plans", self.plan),
            web.get(f"{workspace}/cleanup-plans/{{id}}", self.get_plan),
            web.get(f"{workspace}/cleanups", self.list_runs),
            web.post(f"{workspace}/cleanups", self.start_run),
            web.get(f"{workspace}/cleanups/{{id}}", self.get_run),
        ]

    async def _workspace(self, request: web.Request, scope: str) -> WorkspaceView:
        return await workspace_for(
            request, scope, authenticate=self._authenticate, accounts=self._accounts
        )

    @describe(
        "cleanups",
        "A dry run: every image with keep or delete, and why. Stored for 15 minutes.",
        scope="read",
        body=PlanRequest,
        body_required=False,
        answers={200: PlanAnswer},
        details="Of each caller the newest 10 of a workspace are kept, and 50 in all.",
    )
    async def plan(self, request: web.Request) -> web.Response:
        """Scope `read`: a dry run, every image with its reason, stored for 15 minutes."""
        view = await self._workspace(request, "read")
        body = await body_of(request, PlanRequest)
        build = PlannedBuild(body.incoming_bytes, body.build_id)
        plan = await self._runs.plan(view, build, by=request[CALLER])
        return await large_answer(plan, size=_IMAGE_BYTES * len(plan["images"]))

    @describe("cleanups", "A stored plan as it was made.", scope="read", answers={200: PlanAnswer})
    async def get_plan(self, request: web.Request) -> web.Response:
        """Scope `read`: a stored plan as it was made."""
        view = await self._workspace(request, "read")
        try:
            plan = await self._runs.stored_plan(view, identifier(request))
        except NoSuchPlanError as error:
            raise _no_such_plan() from error
        return await large_answer(plan, size=_IMAGE_BYTES * len(plan["images"]))

    @describe(
        "cleanups",
        "Clean towards the target now, or carry out a stored plan; 202 when it goes on behind.",
        scope="write",
        body=CleanupRequest,
        body_required=False,
        answers={200: StartedCleanup, 202: StartedCleanup},
        problems=(409, 410),
    )
    async def start_run(self, request: web.Request) -> web.Response:
        """Scope `write`: 200 when it is done, 202 when it goes on.

        With a plan 404 (unknown), 409 (it does not hold any more, `errors` says what changed; or it
        was carried out already, a breaker refused it, or another cleanup runs longer than `timeout_s`)
        and 410 (expired); nothing was deleted then.
        """
        view = await self._workspace(request, "write")
        body = await body_of(request, CleanupRequest)
        if body.plan is None:
            outcome = await self._runs.clean(view, body.timeout_s)
        else:
            try:
                outcome = await self._runs.apply(view, body.plan, body.timeout_s)
            except NoSuchPlanError as error:
                raise _no_such_plan() from error
            except PlanExpiredError as error:
                raise ProblemError(
                    410, "the plan has expired (15 minutes after it was made); make another one"
                ) from error
            except PlanRefusedError as error:
                errors = [{"field": "plan", "message": reason} for reason in error.reasons]
                raise ProblemError(409, str(error), errors=errors) from error
        return answer(
            {**cleanup_document(outcome), "done": outcome.done, "warnings": outcome.warnings},
            status=200 if outcome.done else 202,
        )

    @describe(
        "cleanups",
        "Cleanups, newest first.",
        scope="read",
        query=(limit(50), CURSOR),
        answers={200: Page[RunAnswer]},
    )
    async def list_runs(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        view = await self._workspace(request, "read")
        most = number(request, "limit", default=50, low=1, high=1000)
        found = await self._runs.list(view, most + 1, before=cursor_id(request))
        more, found = len(found) > most, found[:most]
        return answer({"items": found, "next_cursor": found[-1]["id"] if more else None})

    @describe(
        "cleanups",
        "A cleanup with what became of each image.",
        scope="read",
        answers={200: RunWithItems},
    )
    async def get_run(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        view = await self._workspace(request, "read")
        run = await self._runs.get(view, identifier(request))
        if run is None:
            raise ProblemError(404, "there is no such cleanup in this workspace")
        return await large_answer(run, size=_IMAGE_BYTES * len(run["items"]))


def _no_such_plan() -> ProblemError:
    return ProblemError(
        404, "there is no such plan in this workspace; plans are kept for a day after they expire"
    )
