"""Routes of reservations: bytes set aside for a build, by the hook or by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import uuid4

from aiohttp import web

from ledger.reservations import Reservation
from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.access import entered
from quota.api.answers import answer, reservation_document
from quota.api.describe import describe
from quota.api.models import AddedReservation, ReservationAnswer, WarnedItems
from quota.api.problems import ProblemError
from quota.api.requests import ReservationRequest, body_of, encodable


class ReservationRoutes:
    """The handlers, with what they need. The workspace may have no image yet, as for the hook."""

    def __init__(
        self, accounts: Accounts, *, authenticate: Authenticate, clock: Callable[[], datetime]
    ) -> None:
        self._accounts = accounts
        self._authenticate = authenticate
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """Everything under `/v1/workspaces/{workspace}/reservations`."""
        path = "/v1/workspaces/{workspace}/reservations"
        return [
            web.get(path, self.list),
            web.post(path, self.add),
            web.delete(f"{path}/{{reservation}}", self.delete),
        ]

    @describe(
        "reservations",
        "What is reserved now and not pushed yet, oldest first.",
        scope="read",
        answers={200: WarnedItems[ReservationAnswer]},
    )
    async def list(self, request: web.Request) -> web.Response:
        """Scope `read`: what is reserved and not pushed yet, oldest first."""
        name, among = await entered(request, self._authenticate, "read")
        items = await self._accounts.reservations(name)
        warnings = [] if items else await self._accounts.unknown([name], among)
        return answer(
            {"items": [reservation_document(item) for item in items], "warnings": warnings}
        )

    @describe(
        "reservations",
        "Set bytes aside for a build; it replaces its own reservation.",
        scope="hook",
        body=ReservationRequest,
        answers={201: AddedReservation},
    )
    async def add(self, request: web.Request) -> web.Response:
        """Scope `hook`: the same build replaces its own."""
        name, among = await entered(request, self._authenticate, "hook")
        body = await body_of(request, ReservationRequest)
        now = self._clock()
        reservation = await self._accounts.reserve(
            name,
            Reservation(
                id=uuid4(),
                build_id=body.build_id,
                app=body.app,
                bytes=body.bytes,
                created_at=now,
                expires_at=now + timedelta(seconds=body.ttl_s),
            ),
        )
        warnings = await self._accounts.unknown([name], among)
        return answer({**reservation_document(reservation), "warnings": warnings}, status=201)

    @describe(
        "reservations",
        "Give reserved bytes back: by the reservation's id, or by the build's.",
        scope="hook",
        answers={204: None},
    )
    async def delete(self, request: web.Request) -> web.Response:
        """Scope `hook`: by the reservation's id, or by the build's."""
        name, _among = await entered(request, self._authenticate, "hook")
        identifier = request.match_info["reservation"]
        if not encodable(identifier) or not await self._accounts.release(name, identifier):
            raise ProblemError(404, "there is no such reservation (it may be used up or expired)")
        return web.Response(status=204)
