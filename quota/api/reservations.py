"""Routes of reservations: bytes set aside for a build, by the hook or by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from aiohttp import web

from ledger.reservations import Place, Reservation
from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.access import entered
from quota.api.answers import answer, reservation_document, utc
from quota.api.describe import CURSOR, describe, limit
from quota.api.models import AddedReservation, ReservationAnswer, WarnedPage
from quota.api.problems import ProblemError
from quota.api.requests import ReservationRequest, bad_cursor, body_of, encodable, number, text


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
        query=(limit(100), CURSOR),
        answers={200: WarnedPage[ReservationAnswer]},
    )
    async def list(self, request: web.Request) -> web.Response:
        """Scope `read`: what is reserved and not pushed yet, oldest first."""
        name, among = await entered(request, self._authenticate, "read")
        most = number(request, "limit", default=100, low=1, high=1000)
        found = await self._accounts.reservations(name, after=_place(request), limit=most + 1)
        more, found = len(found) > most, found[:most]
        warnings = [] if found else await self._accounts.unknown([name], among)
        return answer(
            {
                "items": [reservation_document(item) for item in found],
                "next_cursor": _cursor(found[-1]) if more else None,
                "warnings": warnings,
            }
        )

    @describe(
        "reservations",
        "Set bytes aside for a build; it replaces its own reservation.",
        scope="hook",
        body=ReservationRequest,
        answers={201: AddedReservation},
        problems=(409,),
        details="409: all that is set aside would be more than the quota.",
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


def _cursor(reservation: Reservation) -> str:
    """Where the next page begins, URL-safe; it holds when that one is given back meanwhile."""
    return f"{utc(reservation.created_at)}_{reservation.id}"


def _place(request: web.Request) -> Place | None:
    given = text(request, "cursor")
    if given is None:
        return None
    made, _, identifier = given.partition("_")
    try:
        moment, place = datetime.fromisoformat(made), UUID(identifier)
    except ValueError as error:
        raise bad_cursor() from error
    if moment.tzinfo is None:
        raise bad_cursor()
    return moment, place
