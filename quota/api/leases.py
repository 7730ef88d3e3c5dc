"""Routes of leases: digests in use, reported by whoever runs them."""

from aiohttp import web

from quota.access import Authenticate
from quota.api.access import entered
from quota.api.answers import answer
from quota.api.describe import describe
from quota.api.models import LeaseAnswer, ReportedLease, WarnedItems
from quota.api.problems import ProblemError
from quota.api.requests import LeaseRequest, body_of, encodable
from quota.leases import Leases
from registry.names import parse_digest


class LeaseRoutes:
    """The handlers, with what they need. The workspace may have no image yet."""

    def __init__(self, leases: Leases, *, authenticate: Authenticate) -> None:
        self._leases = leases
        self._authenticate = authenticate

    def routes(self) -> list[web.RouteDef]:
        """Everything under `/v1/workspaces/{workspace}/leases`."""
        path = "/v1/workspaces/{workspace}/leases"
        return [
            web.get(path, self.list),
            web.post(path, self.put),
            web.delete(f"{path}/{{source}}", self.retire),
        ]

    @describe(
        "leases",
        "Digests in use, by source; stale ones block deletion.",
        scope="read",
        answers={200: WarnedItems[LeaseAnswer]},
    )
    async def list(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        name, among = await entered(request, self._authenticate, "read")
        items, warnings = await self._leases.list(name, among)
        return answer({"items": items, "warnings": warnings})

    @describe(
        "leases",
        "Report which digests are in use; it replaces what the source said before.",
        scope="write",
        body=LeaseRequest,
        answers={201: ReportedLease},
        details="A source that does not report again within `ttl_s` is stale: nothing is deleted "
        "in the workspace until it reports or is retired. Digests may be those of any manifest "
        "(an index, one of its children), of a config or of a layer. What is not known here is taken, too: "
        "it may arrive yet; `known_digests` says how many are there.",
    )
    async def put(self, request: web.Request) -> web.Response:
        """Scope `write`."""
        name, among = await entered(request, self._authenticate, "write")
        body = await body_of(request, LeaseRequest)
        digests = [parse_digest(digest) for digest in body.digests]
        lease = await self._leases.put(name, body.source, digests, body.ttl_s, among)
        return answer(lease, status=201)

    @describe(
        "leases",
        "Retire a source: what it had in use is not protected any more.",
        scope="admin",
        answers={204: None},
    )
    async def retire(self, request: web.Request) -> web.Response:
        """Scope `admin`."""
        name, among = await entered(request, self._authenticate, "admin")
        source = request.match_info["source"]
        if not encodable(source):
            raise ProblemError(404, "there is no such source of digests in use")
        if (why := await self._leases.retire(name, source, among)) is not None:
            raise ProblemError(404, why)
        return web.Response(status=204)
