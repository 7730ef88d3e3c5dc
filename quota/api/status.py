"""`GET /v1/status`: whether the pipeline is healthy."""

from aiohttp import web

from quota.access import Authenticate
from quota.api.access import identify
from quota.api.answers import answer
from quota.api.describe import describe
from quota.api.models import StatusAnswer
from quota.api.problems import ProblemError
from quota.pipeline import Pipeline


class StatusRoutes:
    """For operators: it covers all workspaces."""

    def __init__(self, pipeline: Pipeline, *, authenticate: Authenticate) -> None:
        self._pipeline = pipeline
        self._authenticate = authenticate

    def routes(self) -> list[web.RouteDef]:
        """The status."""
        return [web.get("/v1/status", self.status)]

    @describe(
        "operations",
        "Whether the pipeline is healthy: every part with its state, what was found, what to do.",
        scope="read",
        answers={200: StatusAnswer},
        details="For tokens that are good for all workspaces. What Kafka does not tell is null.",
    )
    async def status(self, request: web.Request) -> web.Response:
        """Scope `read`, for all workspaces."""
        caller = await identify(request, self._authenticate, "read")
        if not caller.may("read", None):
            raise ProblemError(403, "the status covers all workspaces; this token has only some")
        return answer(await self._pipeline.status())
