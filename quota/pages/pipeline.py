"""The operator's page: is the pipeline healthy, in one screen; live while somebody looks."""

import asyncio
import time
from functools import partial
from typing import Any, Final

from aiohttp import web

from quota.api.problems import ProblemError
from quota.pages.live import send, streamed
from quota.pages.render import Renderer, html
from quota.pages.sessions import Sessions, Visitor
from quota.pages.visits import Visits, is_part
from quota.pipeline import Pipeline
from runtime.lifecycle import Stopping
from runtime.postgres import UNAVAILABLE

_EVERY_SECONDS: Final = 2.0
_MOST_STREAMS: Final = 50


class PipelinePage:
    """`/pipeline`: what `GET /v1/status` says, for those who may see every workspace."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        sessions: Sessions,
        visits: Visits,
        renderer: Renderer,
        stopping: Stopping,
    ) -> None:
        self._pipeline = pipeline
        self._sessions = sessions
        self._visits = visits
        self._renderer = renderer
        self._stopping = stopping
        self._streams = 0
        self._reading = asyncio.Lock()
        self._known: tuple[float, dict[str, Any]] | None = None

    def routes(self) -> list[web.RouteDef]:
        """The page and its stream."""
        return [
            web.get("/pipeline", self._visits.page(self.show)),
            web.get("/pipeline/live", self._visits.page(self.live)),
        ]

    async def show(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """Whether the pipeline is healthy."""
        _may_look(visitor)
        status = await self._status()
        if is_part(request):
            return html(self._renderer.text("parts/pipeline_content.html", pipeline=status))
        return self._renderer.page("pipeline.html", visitor=visitor, pipeline=status)

    async def live(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """The same, every two seconds."""
        _may_look(visitor)
        if self._streams >= _MOST_STREAMS:
            raise ProblemError(503, "Too many people watch; the page works without.")
        self._streams += 1
        try:
            return await streamed(request, partial(self._stream, request))
        finally:
            self._streams -= 1

    async def _stream(self, request: web.Request, response: web.StreamResponse) -> None:
        while not await self._stopping.sleep(_EVERY_SECONDS):
            try:
                visitor = await self._sessions.visitor(request)
                may_look = visitor is not None and visitor.principal.may("read", None)
                status = await self._status() if may_look else {}
            except UNAVAILABLE:
                continue
            if not may_look:
                await send(response, "signed-out", "now")
                return
            text = self._renderer.text("parts/pipeline_content.html", pipeline=status)
            await send(response, "pipeline", text)

    async def _status(self) -> dict[str, Any]:
        """All that look share one reading."""
        async with self._reading:
            now = time.monotonic()
            if self._known is None or now - self._known[0] > _EVERY_SECONDS / 2:
                self._known = (now, await self._pipeline.status())
            return self._known[1]


def _may_look(visitor: Visitor) -> None:
    if not visitor.principal.may("read", None):
        raise ProblemError(403, "The pipeline serves all workspaces; you may see only some.")
