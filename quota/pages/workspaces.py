"""The pages themselves: the list, a workspace, each of its parts alone, a cleanup."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import msgspec
from aiohttp import web

from ledger.browsing import Pulse
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
from quota.restore import Restorer
from quota.runs import Runs

_PATIENT_SECONDS: Final = 8.0
"""How long somebody waits who asks for one part alone."""
_ASK_SECONDS: Final = 3.0
"""For what the registry is asked before a page offers to put something back."""
_SHORTEST_CHART: Final = timedelta(minutes=10)
_BY_THE_CLOCK: Final = timedelta(hours=24, minutes=1)
_WORKSPACES_A_PAGE: Final = 100
_IMAGES_A_PAGE: Final = 25
_MOST_BUILDS: Final = 100
"""Builds with bytes set aside that a page names."""
_RUNS_FIRST, _RUNS_ALL = 5, 200
_EVENTS_FIRST, _EVENTS_ALL = 8, 100
_LAST_PAGE: Final = 100_000

Part = Callable[["Look"], Awaitable[dict[str, Any]]]


class Look(msgspec.Struct, frozen=True):
    """One look at a workspace: by whom, at which state, with which query."""

    request: web.Request
    visitor: Visitor
    view: WorkspaceView
    pulse: Pulse
    """How the workspace stood before anything else of it was read."""
    patient: bool
    """One part alone was asked for."""

    @property
    def wait(self) -> float:
        """Seconds that figures may take. A whole page has waited for all of them together."""
        return _PATIENT_SECONDS if self.patient else 0.0


def version_of(pulse: Pulse) -> str:
    """A name of what a workspace's page shows: it goes with the page, and the stream begins there."""
    return hashlib.sha256(msgspec.json.encode(pulse)).hexdigest()[:16]


class Workspaces:
    """Handlers of pages; they read and never write."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        browsing: Browsing,
        history: History,
        runs: Runs,
        restorer: Restorer,
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
        self._restorer = restorer
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
            meant = await self._accounts.near_workspaces(name, visitor.principal.workspaces)
            raise ProblemError(404, f"There is no such workspace, or it is not yours{meant or '.'}")
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
        look = await self._look(request, visitor, patient=False)
        await asyncio.gather(
            self._breakdown(look, WAIT_SECONDS),
            self._awaited(look.view, look.pulse),
            self._preview(look, WAIT_SECONDS),
        )
        values: dict[str, Any] = {}
        for make in self._parts.values():
            values |= await make(look)
        return self._renderer.page(
            "workspace.html", **self._common(look), **values, version=version_of(look.pulse)
        )

    async def part(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """One part of a workspace: alone on a page, or to be put in its place."""
        name = request.match_info["part"]
        try:
            look = await self._look(request, visitor, patient=True)
        except ProblemError as error:
            if error.status != HTTPStatus.NOT_FOUND or not is_part(request):
                raise
            # The workspace is gone, or out of reach: the whole page says so, not a part of it.
            to = workspace_path(workspace_of(request))
            return html("", status=error.status, headers={"HX-Redirect": to})
        values = {**self._common(look), **await self._parts[name](look)}
        if is_part(request):
            return html(self._renderer.text(f"parts/{name}.html", **values))
        return self._renderer.page("part.html", **values, part=name)

    async def cleanup(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """A cleanup with every image and its reason."""
        look = await self._look(request, visitor, patient=True)
        try:
            run_id = UUID(request.match_info["id"])
        except ValueError as error:
            raise ProblemError(404, "There is no such cleanup.") from error
        run = await self._runs.get(look.view, run_id)
        if run is None:
            raise ProblemError(404, "There is no such cleanup in this workspace.")
        over = run["state"] != "running"
        lost = await self._restorer.lost(look.view, run_id, seconds=_ASK_SECONDS) if over else set()
        return self._renderer.page("cleanup.html", **self._common(look), run=run, lost=lost)

    async def _look(self, request: web.Request, visitor: Visitor, *, patient: bool) -> Look:
        view = await self.view(request, visitor, "read")
        pulse = await self._browsing.pulse(view.id)
        # The settings after it, too: what changes from here on, the page's stream tells.
        view = await self.view(request, visitor, "read")
        if pulse is None:
            raise ProblemError(404, "There is no such workspace, or it is not yours.")
        return Look(request, visitor, view, pulse, patient=patient)

    def _common(self, look: Look) -> dict[str, Any]:
        policy = parse_policy(look.view.policy)
        return {
            "visitor": look.visitor,
            "view": look.view,
            "path": workspace_path(look.view.name),
            "may_write": look.visitor.principal.may("write", look.view.name),
            "alone": look.patient,
            "policy": policy,
            "ppm": PPM,
        }

    # -- parts -------------------------------------------------------------------------------------

    async def summary(self, look: Look) -> dict[str, Any]:
        """The bar, the figures, and the cleanup that runs."""
        return await self.summary_of(look.view, look.pulse)

    async def summary_of(self, view: WorkspaceView, pulse: Pulse) -> dict[str, Any]:
        """Also sent by itself while something happens."""
        awaiting = await self._awaited(view, pulse)
        return {
            "pulse": pulse,
            "awaiting": awaiting,
            "bar": charts.bar(
                quota_bytes=pulse.quota_bytes,
                usage_bytes=pulse.usage_bytes,
                reserved_bytes=pulse.reserved_bytes,
                awaiting_bytes=0 if awaiting is None else awaiting.value,
            ),
            "builds": await self._accounts.reservations(view.name, limit=_MOST_BUILDS),
        }

    async def history(self, look: Look) -> dict[str, Any]:
        """Usage over time, with the cleanups on it."""
        span_name = look.request.query.get("range", "7d")
        span_name = span_name if span_name in charts.SPANS else "7d"
        end = self._clock()
        asked = end - charts.SPANS[span_name]
        # Where there is history: a workspace of this morning is not a line at the edge of a week.
        began = await self._history.began(look.view)
        start = asked if began is None else min(max(asked, began), end)
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
            "chart": charts.chart(
                points, marks, start=start, end=max(end, start + _SHORTEST_CHART)
            ),
            "chart_rows": charts.rows(points),
            "chart_began": None if began is None or began <= asked else began,
            "chart_clock": end - start < _BY_THE_CLOCK,
            "span": span_name,
            "spans": list(charts.SPANS),
        }

    async def apps(self, look: Look) -> dict[str, Any]:
        """Who takes how much."""
        return await self._breakdown(look, look.wait)

    async def images(self, look: Look) -> dict[str, Any]:
        """A page of images."""
        query = _image_query(look.request)
        sizes = await self._breakdown(look, look.wait if query.sort in BY_SIZE else 0)
        preview = await self._preview(look, 0)
        return {
            **sizes,
            **preview,
            "images": await self._browsing.images(
                look.view, query, limit=_IMAGES_A_PAGE, known=sizes["breakdown"]
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
        return await self._preview(look, look.wait)

    async def _preview(self, look: Look, wait: float) -> dict[str, Any]:
        """The plan as it would be, and in how many seconds there is a newer one (None: not older)."""
        view, pulse = look.view, look.pulse
        state = (pulse.row_version, pulse.reserved_bytes, pulse.leased_at, pulse.leases)
        known = await self._previews.of(view.name, view.id, state, wait=wait)
        return {
            "preview": None if known is None else known.value,
            "preview_again": self._previews.newer_in(known, state),
        }

    async def cleanups(self, look: Look) -> dict[str, Any]:
        """Runs, newest first."""
        most = _RUNS_ALL if look.patient and not is_part(look.request) else _RUNS_FIRST
        before = _id(look.request.query.get("before"))
        runs = await self._runs.list(look.view, most + 1, before=before)
        more, runs = len(runs) > most, runs[:most]
        return {
            "runs": runs,
            "more_runs": more,
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

    async def _awaited(self, view: WorkspaceView, pulse: Pulse) -> Known[int] | None:
        return await self._awaiting.of(view.name, view.id, _bytes_state(pulse))

    def awaited_again(self, known: Known[int] | None, pulse: Pulse) -> float | None:
        """Seconds after which a summary has newer figures; None: they are the newest."""
        return self._awaiting.newer_in(known, _bytes_state(pulse))

    async def _breakdown(self, look: Look, wait: float) -> dict[str, Any]:
        """Sizes of all images, and in how many seconds there are newer ones (None: not older)."""
        view, state = look.view, look.pulse.changed_at
        known = await self._breakdowns.of(view.name, view.id, state, wait=wait)
        return {"breakdown": known, "breakdown_again": self._breakdowns.newer_in(known, state)}


def _bytes_state(pulse: Pulse) -> object:
    """What changes with the bytes that wait for a registry's collection."""
    return (pulse.changed_at, pulse.collection_seen_at)


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


def _id(given: str | None) -> UUID | None:
    """An id of the query; None for anything else."""
    try:
        return None if given is None else UUID(given)
    except ValueError:
        return None


def _number(given: str | None) -> int | None:
    """A whole number from 0 to 2^63 of the query; None for anything else."""
    if given is None or not given.isascii() or not given.isdigit() or len(given) > 18:
        return None
    return int(given)
