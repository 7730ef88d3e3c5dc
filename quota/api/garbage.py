"""Routes of the registry's garbage collection: what a collection was to free, and what it did."""

from uuid import UUID

from aiohttp import web

from ledger.garbage import AlreadyVerifyingError
from quota.access import Authenticate, Principal
from quota.api.access import enter, identify
from quota.api.answers import answer
from quota.api.describe import CURSOR, describe, limit
from quota.api.models import GcVerification, Page
from quota.api.problems import ProblemError
from quota.api.requests import GcVerificationRequest, body_of, cursor_id, number
from quota.garbage import GarbageCollection


class GarbageRoutes:
    """The handlers, with what they need."""

    def __init__(self, collection: GarbageCollection, *, authenticate: Authenticate) -> None:
        self._collection = collection
        self._authenticate = authenticate

    def routes(self) -> list[web.RouteDef]:
        """Everything under `/v1/gc`."""
        path = "/v1/gc/verifications"
        return [
            web.get(path, self.list),
            web.post(path, self.start),
            web.get(f"{path}/{{id}}", self.get),
        ]

    @describe(
        "garbage collection",
        "Say that a collection ran: what was freed is asked for in the registry.",
        scope="admin",
        body=GcVerificationRequest,
        body_required=False,
        answers={202: GcVerification},
        problems=(409,),
        details="It goes on behind; look at it by its id. Blobs that are gone await nothing any "
        "more. Without `workspace` it needs a token that is good for all of them.",
    )
    async def start(self, request: web.Request) -> web.Response:
        """Scope `admin`."""
        caller = await identify(request, self._authenticate, "admin")
        body = await body_of(request, GcVerificationRequest)
        _enter(caller, "admin", body.workspace)
        try:
            return answer(await self._collection.start(body.workspace), status=202)
        except LookupError as error:
            raise ProblemError(404, f"there is no workspace {body.workspace!r}") from error
        except AlreadyVerifyingError as error:
            raise ProblemError(
                409, "a verification is running; wait for its end", headers={"Retry-After": "5"}
            ) from error

    @describe(
        "garbage collection",
        "Verifications, the newest first.",
        scope="read",
        query=(limit(20), CURSOR),
        answers={200: Page[GcVerification]},
        details="Needs a token that is good for all workspaces.",
    )
    async def list(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        caller = await identify(request, self._authenticate, "read")
        _enter(caller, "read", None)
        most = number(request, "limit", default=20, low=1, high=1000)
        found = await self._collection.list(most + 1, before=cursor_id(request))
        more, found = len(found) > most, found[:most]
        return answer({"items": found, "next_cursor": found[-1]["id"] if more else None})

    @describe(
        "garbage collection",
        "One verification: how far it is, or how it ended.",
        scope="read",
        answers={200: GcVerification},
    )
    async def get(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        caller = await identify(request, self._authenticate, "read")
        try:
            found = await self._collection.get(UUID(request.match_info["id"]))
        except ValueError:
            found = None
        if found is None or not caller.may("read", found["workspace"]):
            raise ProblemError(404, "there is no such verification")
        return answer(found)


def _enter(caller: Principal, scope: str, workspace: str | None) -> None:
    if workspace is not None:
        enter(caller, scope, workspace)
    elif caller.workspaces is not None:
        raise ProblemError(403, "this covers all workspaces; your token has only some")
