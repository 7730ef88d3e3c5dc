"""Routes of leases: digests in use, reported by whoever runs them."""

from aiohttp import web

from quota.access import Authenticate
from quota.api.access import entered
from quota.api.answers import large_answer
from quota.api.describe import CURSOR, describe, limit
from quota.api.models import LeaseAnswer, ReportedLease, WarnedPage
from quota.api.problems import ProblemError
from quota.api.requests import LeaseRequest, body_of, encodable, number, text
from quota.leases import DIGEST_CHARACTERS, Leases
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
        query=(limit(100), CURSOR),
        answers={200: WarnedPage[LeaseAnswer]},
        details="A page ends early where its sources name very many digests.",
    )
    async def list(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        name, among = await entered(request, self._authenticate, "read")
        items, following, warnings = await self._leases.list(
            name,
            among,
            after=text(request, "cursor") or "",
            limit=number(request, "limit", default=100, low=1, high=1000),
        )
        size = DIGEST_CHARACTERS * sum(len(item["digests"]) for item in items)
        return await large_answer(
            {"items": items, "next_cursor": following, "warnings": warnings}, size=size
        )

    @describe(
        "leases",
        "Report which digests are in use; it replaces what the source said before.",
        scope="write",
        body=LeaseRequest,
        answers={201: ReportedLease},
        problems=(409,),
        details="A source that does not report again within `ttl_s` is stale: nothing is deleted "
        "in the workspace until it reports or is retired. Digests may be those of any manifest "
        "(an index, one of its children), of a config or of a layer. What is not known here is taken, too: "
        "it may arrive yet; `known_digests` says how many are there. 409: more than a workspace may have "
        "(`RQ_LEASE_DIGESTS` for all its sources); what the source said before stays.",
    )
    async def put(self, request: web.Request) -> web.Response:
        """Scope `write`."""
        name, among = await entered(request, self._authenticate, "write")
        body = await body_of(request, LeaseRequest)
        digests = [parse_digest(digest) for digest in body.digests]
        lease = await self._leases.put(name, body.source, digests, body.ttl_s, among)
        size = DIGEST_CHARACTERS * len(lease["digests"])
        return await large_answer(lease, size=size, status=201)

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
