"""What happens while somebody looks: server-sent events of one workspace.

`summary` carries the bar and a cleanup's progress as HTML whenever they change; `changed` tells the
other parts to fetch themselves anew, at most every two seconds and once more when it is quiet again;
`signed-out` ends it when the session has ended. A stream begins at the version that its page was made
of (`from`), or that it last told of (`Last-Event-ID`): what happened between is told at once.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ledger.browsing import Pulse
from ledger.reading import WorkspaceView
from quota.api.problems import ProblemError
from quota.pages.browsing import Browsing
from quota.pages.render import HEADERS, Renderer, workspace_path
from quota.pages.sessions import Sessions, Visitor
from quota.pages.visits import Visits
from quota.pages.workspaces import Workspaces, version_of
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE

log = get_logger(__name__)

_MOST_STREAMS: Final = 500
_OF_ONE_VISITOR: Final = 50
"""Streams of who is signed in by one name."""
_MOST_OPENING: Final = 20
"""Streams at a time of which it is being found out who asks for them, and whether they may."""
_EVERY_SECONDS: Final = 0.5
_PARTS_EVERY_SECONDS: Final = 2.0
_CHECK_SESSION_SECONDS: Final = 3.0
_SIGN_OF_LIFE_SECONDS: Final = 15.0

_OPENING: Final = web.RequestKey("opening", bool)
"""Whether a request counts among those that are being opened."""


class Live:
    """Streams; all that look at one workspace share its readings."""

    def __init__(
        self,
        *,
        workspaces: Workspaces,
        browsing: Browsing,
        sessions: Sessions,
        visits: Visits,
        renderer: Renderer,
        stopping: Stopping,
    ) -> None:
        self._workspaces = workspaces
        self._browsing = browsing
        self._sessions = sessions
        self._visits = visits
        self._renderer = renderer
        self._stopping = stopping
        self._streams: Counter[str] = Counter()
        """Visitor's name → pages that look."""
        self._readings: dict[int, tuple[float, Pulse]] = {}
        self._reading = asyncio.Lock()
        self._opening = 0

    def routes(self) -> list[web.RouteDef]:
        """One address."""
        return [
            web.get(
                "/workspaces/{workspace:[^/]+}/live", self._opened(self._visits.page(self.live))
            )
        ]

    def _opened(self, page: Handler) -> Handler:
        """Refuse a flood before anything is asked of the database for it: streams take no place at the gate."""

        @wraps(page)
        async def bounded(request: web.Request) -> web.StreamResponse:
            if self._opening >= _MOST_OPENING:
                return web.Response(status=503, headers={hdrs.RETRY_AFTER: "1"})
            self._opening += 1
            request[_OPENING] = True
            try:
                return await page(request)
            finally:
                self._is_open(request)

        return bounded

    def _is_open(self, request: web.Request) -> None:
        """It is known who asks: another may."""
        if request[_OPENING]:
            request[_OPENING] = False
            self._opening -= 1

    async def live(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """What happens in a workspace, as it happens."""
        view = await self._workspaces.view(request, visitor, "read")
        if self._streams.total() >= _MOST_STREAMS:
            raise ProblemError(503, "Too many people watch; the page works without.")
        if self._streams[visitor.name] >= _OF_ONE_VISITOR:
            raise ProblemError(
                429, f"{_OF_ONE_VISITOR} pages of yours watch; this one works without."
            )
        self._streams[visitor.name] += 1
        self._is_open(request)
        try:
            return await streamed(request, partial(self._stream, request, view))
        finally:
            self._streams[visitor.name] -= 1
            if not self._streams[visitor.name]:
                del self._streams[visitor.name]
            if not self._streams:
                self._readings.clear()

    async def _stream(
        self, request: web.Request, view: WorkspaceView, response: web.StreamResponse
    ) -> None:
        shown: Pulse | None = None
        told = request.headers.get("Last-Event-ID") or request.query.get("from")
        checked_at = alive_at = again_at = time.monotonic()
        told_at = checked_at - _PARTS_EVERY_SECONDS
        while not await self._stopping.sleep(_EVERY_SECONDS if shown is not None else 0.01):
            now = time.monotonic()
            try:
                pulse = await self._pulse(view.id)
                if pulse is None:
                    # The workspace is gone: what the page fetches then leads to where that is said.
                    await send(response, "signed-out", "gone")
                    return
                # Before anything is shown, and now and then while there is nothing to show.
                may_look = True
                if pulse != shown or now - checked_at >= _CHECK_SESSION_SECONDS:
                    checked_at = now
                    visitor = await self._sessions.visitor(request)
                    may_look = visitor is not None and visitor.principal.may("read", view.name)
                summary, again = None, None
                if may_look and (pulse != shown or now >= again_at):
                    summary, again = await self._summary(view, pulse)
            except UNAVAILABLE:
                continue
            if not may_look:
                await send(response, "signed-out", "now")
                return
            if summary is not None:
                shown = pulse
                alive_at = now
                again_at = math.inf if again is None else now + again
                await send(response, "summary", summary)
            version = version_of(pulse)
            if told is None:
                told = version
            if version != told and now - told_at >= _PARTS_EVERY_SECONDS:
                told, told_at = version, now
                await send(response, "changed", "now", identifier=version)
            if now - alive_at >= _SIGN_OF_LIFE_SECONDS:
                alive_at = now
                await response.write(b": alive\n\n")

    async def _pulse(self, workspace_id: int) -> Pulse | None:
        async with self._reading:
            known = self._readings.get(workspace_id)
            now = time.monotonic()
            if known is None or now - known[0] >= _EVERY_SECONDS * 0.9:
                pulse = await self._browsing.pulse(workspace_id)
                if pulse is None:
                    return None
                known = (now, pulse)
                self._readings[workspace_id] = known
            return known[1]

    async def _summary(self, view: WorkspaceView, pulse: Pulse) -> tuple[str, float | None]:
        """Its HTML, and in how many seconds it will have newer figures (None: they are the newest)."""
        values = await self._workspaces.summary_of(view, pulse)
        text = self._renderer.text(
            "parts/summary_content.html", view=view, path=workspace_path(view.name), **values
        )
        return text, self._workspaces.awaited_again(values["awaiting"], pulse)


async def streamed(
    request: web.Request, stream: Callable[[web.StreamResponse], Awaitable[None]]
) -> web.StreamResponse:
    """Answer by what `stream` sends; the answer is at its end when that returns, or fails.

    Nothing is raised once it has begun: another answer would go into the middle of this one. The page
    asks again by itself.
    """
    response = web.StreamResponse(
        headers={**HEADERS, hdrs.CONTENT_TYPE: "text/event-stream", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    try:
        await stream(response)
    except ConnectionResetError:
        pass  # a client that is gone; nothing is owed to it
    except Exception:
        log.exception("stream_failed", path=request.path)
    return response


async def send(
    response: web.StreamResponse, event: str, data: str, *, identifier: str | None = None
) -> None:
    """One server-sent event; a browser whose connection breaks says the last `identifier` it had."""
    head = "" if identifier is None else f"id: {identifier}\n"
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    await response.write(f"{head}event: {event}\n{lines}\n".encode())
