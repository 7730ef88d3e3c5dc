"""The pages themselves: the list, a workspace, each of its parts alone, a cleanup."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from aiohttp import web

from ledger.reading import WorkspaceView
from quota.accounts import Accounts
from quota.api.problems import ProblemError
from quota.api.requests import text, workspace_of
from quota.history import History, usual_step
from quota.pages import charts
from quota.pages.breakdown import Breakdown
from quota.pages.browsing import BY_SIZE, SORTS, Browsing, ImageQuery
from quota.pages.figures import WAIT_SECONDS, Figures, Known
from quota.pages.preview import Preview
from quota.pages.render import Renderer, html, workspace_path
from quota.pages.sessions import Visitor
from quota.pages.visits import Visits, is_part
from quota.policy import PPM, parse_policy
from quota.runs import Runs

_PATIENT_SECONDS: Final = 8.0
"""How long somebody waits who asks for one part alone."""
_WORKSPACES_A_PAGE: Final = 100
_IMAGES_A_PAGE: Final = 25
_RUNS_FIRST, _RUNS_ALL = 5, 200
_EVENTS_FIRST, _EVENTS_ALL = 8, 100
_LAST_PAGE: Final = 100_000

Part = Callable[["Look"], Awaitable[dict[str, Any]]]


class Look(msgspec.Struct, frozen=True):
    """One look at a workspace: by whom, at which state, with which query."""

    request: web.Request
    visitor: Visitor
    view: WorkspaceView
    patient: bool
    """One part alone was asked for."""

    @property
    def wait(self) -> float:
        """Seconds that figures may take. A whole page has waited for all of them together."""
        return _PATIENT_SECONDS if self.patient else 0.0


class Workspaces:
    """Handlers of pages; they read and never write."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        browsing: Browsing,
        history: History,
        runs: Runs,
        breakdowns: Figures[Breakdown],
        awaiting: Figures[int],
        previews: Figures[Preview],
        visits: Visits,
        renderer: Renderer,
        clock: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._browsing = browsing
        self._history = history
        self._runs = runs
        self._breakdowns = breakdowns
        self._awaiting = awaiting
        self._previews = previews
        self._visits = visits
        self._renderer = renderer
        self._clock = clock
        self._parts: dict[str, Part] = {
            "summary": self.summary,
            "history": self.history,
            "apps": self.apps,
            "images": self.images,
            "next": self.next,
            "cleanups": self.cleanups,
            "events": self.events,
        }

    def routes(self) -> list[web.RouteDef]:
        """Everything that is read."""
        workspace = "/workspaces/{workspace:[^/]+}"
        parts = "|".join(self._parts)
        return [
            web.get("/", self._visits.page(self.overview)),
            web.get(workspace, self._visits.page(self.workspace)),
            web.get(f"{workspace}/{{part:{parts}}}", self._visits.page(self.part)),
            web.get(f"{workspace}/cleanups/{{id}}", self._visits.page(self.cleanup)),
        ]

    async def view(self, request: web.Request, visitor: Visitor, scope: str) -> WorkspaceView:
        """The path's workspace. Raises ProblemError 404 also when it is somebody else's."""
        name = workspace_of(request)
        view = await self._accounts.workspace(name) if visitor.principal.may("read", name) else None
        if view is None:
            raise ProblemError(404, "There is no such workspace, or it is not yours.")
        if not visitor.principal.may(scope, name):
            raise ProblemError(403, f"Your token lacks the scope “{scope}”.")
        return view

    # -- whole pages -------------------------------------------------------------------------------

    async def overview(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """Workspaces, the fullest first."""
        search, page = text(request, "q") or None, _page_number(request)
        among = visitor.principal.workspaces
        found, totals = await self._browsing.workspaces(
            among=None if among is None else sorted(among),
            search=search,
            offset=(page - 1) * _WORKSPACES_A_PAGE,
            limit=_WORKSPACES_A_PAGE + 1,
        )
        return self._renderer.page(
            "overview.html",
            visitor=visitor,
            workspaces=[
                (
                    item,
                    charts.bar(
                        quota_bytes=item.quota_bytes,
                        usage_bytes=item.usage_bytes,
                        reserved_bytes=item.reserved_bytes,
                    ),
                )
                for item in found[:_WORKSPACES_A_PAGE]
            ],
            totals=totals,
            search=search or "",
            page=page,
            more=len(found) > _WORKSPACES_A_PAGE,
        )

    async def workspace(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """A workspace with all its parts."""
        view = await self.view(request, visitor, "read")
        look = Look(request, visitor, view, patient=False)
        await asyncio.gather(
            self._breakdown(view, WAIT_SECONDS),
            self._awaited(view, view.changed_at),
            self._preview(look, WAIT_SECONDS),
        )
        values: dict[str, Any] = {}
        for make in self._parts.values():
            values |= await make(look)
        return self._renderer.page("workspace.html", **self._common(look), **values)

    async def part(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """One part of a workspace: alone on a page, or to be put in its place."""
        view = await self.view(request, visitor, "read")
        name = request.match_info["part"]
        look = Look(request, visitor, view, patient=True)
        values = {**self._common(look), **await self._parts[name](look), "part": name}
        if is_part(request):
            return html(self._renderer.text(f"parts/{name}.html", **values))
        return self._renderer.page("part.html", **values)

    async def cleanup(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """A cleanup with every image and its reason."""
        view = await self.view(request, visitor, "read")
        try:
            run_id = UUID(request.match_info["id"])
        except ValueError as error:
            raise ProblemError(404, "There is no such cleanup.") from error
        run = await self._runs.get(view, run_id)
        if run is None:
            raise ProblemError(404, "There is no such cleanup in this workspace.")
        look = Look(request, visitor, view, patient=True)
        return self._renderer.page("cleanup.html", **self._common(look), run=run)

    def _common(self, look: Look) -> dict[str, Any]:
        policy = parse_policy(look.view.policy)
        return {
            "visitor": look.visitor,
            "view": look.view,
            "path": workspace_path(look.view.name),
            "may_write": look.visitor.principal.may("write", look.view.name),
            "alone": look.patient,
            "policy": policy,
            "trigger_percent": policy.trigger_ppm * 100 // PPM,
            "target_percent": policy.target_ppm * 100 // PPM,
        }

    # -- parts -------------------------------------------------------------------------------------

    async def summary(self, look: Look) -> dict[str, Any]:
        """The bar, the figures, and the cleanup that runs."""
        return await self.summary_of(look.view)

    async def summary_of(self, view: WorkspaceView) -> dict[str, Any]:
        """Also sent by itself while something happens."""
        pulse = await self._browsing.pulse(view.id)
        awaiting = await self._awaited(view, pulse.changed_at)
        breakdown = await self._breakdown(view, 0)
        return {
            "pulse": pulse,
            "awaiting": awaiting,
            "breakdown": breakdown,
            "bar": charts.bar(
                quota_bytes=pulse.quota_bytes,
                usage_bytes=pulse.usage_bytes,
                reserved_bytes=pulse.reserved_bytes,
                awaiting_bytes=0 if awaiting is None else awaiting.value,
            ),
            "builds": await self._accounts.reservations(view.name),
        }

    async def history(self, look: Look) -> dict[str, Any]:
        """Usage over time, with the cleanups on it."""
        span_name = look.request.query.get("range", "7d")
        span_name = span_name if span_name in charts.SPANS else "7d"
        end = self._clock()
        start = end - charts.SPANS[span_name]
        points = await self._history.of(
            look.view, start=start, end=end, step=usual_step(start, end)
        )
        runs = await self._runs.list(look.view, _RUNS_ALL)
        marks = [
            (run["finished_at"], run["freed_bytes"])
            for run in runs
            if run["finished_at"] is not None
        ]
        return {
            "chart": charts.chart(points, marks, start=start, end=end),
            "chart_rows": charts.rows(points),
            "chart_start": start,
            "chart_end": end,
            "span": span_name,
            "spans": list(charts.SPANS),
        }

    async def apps(self, look: Look) -> dict[str, Any]:
        """Who takes how much."""
        return {"breakdown": await self._breakdown(look.view, look.wait)}

    async def images(self, look: Look) -> dict[str, Any]:
        """A page of images."""
        query = _image_query(look.request)
        known = await self._breakdown(look.view, look.wait if query.sort in BY_SIZE else 0)
        preview = await self._preview(look, 0)
        return {
            "breakdown": known,
            "protections": {} if preview is None else preview.protections,
            "images": await self._browsing.images(
                look.view, query, limit=_IMAGES_A_PAGE, known=known
            ),
            "image_query": query,
            "image_values": {
                "q": query.search,
                "app": query.app,
                "show": {None: None, True: "tagged", False: "untagged"}[query.tagged],
                "sort": query.sort if query.sort != "pushed" else None,
                "page": query.page if query.page > 1 else None,
            },
        }

    async def next(self, look: Look) -> dict[str, Any]:
        """What a cleanup would delete now."""
        return {"preview": await self._preview(look, look.wait)}

    async def _preview(self, look: Look, wait: float) -> Preview | None:
        view = look.view
        state = (view.changed_at, view.reserved_bytes)
        known = await self._previews.of(view.name, view.id, state, wait=wait)
        return None if known is None else known.value

    async def cleanups(self, look: Look) -> dict[str, Any]:
        """Runs, newest first."""
        most = _RUNS_ALL if look.patient and not is_part(look.request) else _RUNS_FIRST
        runs = await self._runs.list(look.view, most)
        return {
            "runs": runs,
            "run_states": {
                str(run_id): states
                for run_id, states in (
                    await self._browsing.item_states([UUID(run["id"]) for run in runs])
                ).items()
            },
        }

    async def events(self, look: Look) -> dict[str, Any]:
        """Quota events, newest first."""
        alone = look.patient and not is_part(look.request)
        before = _number(look.request.query.get("before"))
        events, more = await self._browsing.events(
            look.view, before=before, limit=_EVENTS_ALL if alone else _EVENTS_FIRST
        )
        return {"events": events, "more_events": more}

    async def _awaited(self, view: WorkspaceView, changed_at: datetime) -> Known[int] | None:
        return await self._awaiting.of(view.name, view.id, changed_at)

    async def _breakdown(self, view: WorkspaceView, wait: float) -> Known[Breakdown] | None:
        return await self._breakdowns.of(view.name, view.id, view.changed_at, wait=wait)


def _image_query(request: web.Request) -> ImageQuery:
    search = (text(request, "q") or "").strip()
    sort = request.query.get("sort", "pushed")
    return ImageQuery(
        search=search.removeprefix("sha256:") or None,
        app=text(request, "app") or None,
        tagged={"tagged": True, "untagged": False}.get(request.query.get("show", "")),
        sort=sort if sort in SORTS else "pushed",
        page=_page_number(request),
    )


def _page_number(request: web.Request) -> int:
    return min(max(_number(request.query.get("page")) or 1, 1), _LAST_PAGE)


def _number(given: str | None) -> int | None:
    """A whole number from 0 to 2^63 of the query; None for anything else."""
    if given is None or not given.isascii() or not given.isdigit() or len(given) > 18:
        return None
    return int(given)
