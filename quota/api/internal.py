"""The internal API that build platforms already call: their paths, their fields, their order."""

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Annotated

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ledger.mapping import CleanupRunningError, MovedMeanwhileError
from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.access import enter, enter_holder, identify
from quota.api.answers import answer
from quota.api.describe import describe
from quota.api.models import Answer
from quota.api.problems import ProblemError
from quota.api.requests import Digest, Name, body_of, workspace_name
from quota.records import Claim, GoneMeanwhileError, PlaceTakenError, Records
from registry.names import InvalidName, check_repository, parse_digest

_MOST_BYTES = 2**42
"""Largest image size that is taken (4 TiB): sums of them stay within 64 bits."""


class RecordRequest(BaseModel):
    """A record. Callers send fields of their own besides; they are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspace: Name
    app: Name
    tag: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    digest: Digest
    sizeBytes: Annotated[  # noqa: N815 - the callers' name
        int, Field(strict=True, ge=0, le=_MOST_BYTES, description="0: not known.")
    ]


class RecordAnswer(Answer):
    """An image under one tag. `pushedAt` is fixed-width UTC."""

    id: str
    workspace: str
    app: str
    appName: str  # noqa: N815 - the callers' name
    tag: str
    digest: str
    sizeBytes: Annotated[int, Field(ge=0)]  # noqa: N815 - the callers' name
    pushedAt: str  # noqa: N815 - the callers' name


class UsageSummary(Answer):
    """What a workspace stores, of how much."""

    currentBytes: Annotated[int, Field(ge=0)]  # noqa: N815 - the callers' name
    quotaBytes: Annotated[int, Field(gt=0)]  # noqa: N815 - the callers' name


class Done(Answer):
    """It is done."""

    success: bool


class InternalRoutes:
    """`/api/internal`: the internal key, or an API token with the scope."""

    def __init__(self, records: Records, accounts: Accounts, *, authenticate: Authenticate) -> None:
        self._records = records
        self._accounts = accounts
        self._authenticate = authenticate

    def routes(self) -> list[web.RouteDef]:
        """The four addresses."""
        workspace = "/api/internal/workspaces/{id}"
        return [
            web.get(f"{workspace}/registry-usage", self.usage),
            web.get(f"{workspace}/registry-images", self.images),
            web.post("/api/internal/registry-images", self.put),
            web.delete("/api/internal/registry-images/{id}", self.delete),
        ]

    @describe(
        "internal",
        "Usage and quota of a workspace.",
        scope="read",
        platform=True,
        answers={200: UsageSummary},
    )
    async def usage(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        name = await self._enter(request)
        view = await self._accounts.workspace(name)
        if view is None:
            raise ProblemError(404, f"there is no workspace {name!r}")
        return answer({"currentBytes": view.usage_bytes, "quotaBytes": view.quota_bytes})

    @describe(
        "internal",
        "Every tagged image of a workspace, oldest push first.",
        scope="read",
        platform=True,
        answers={200: list[RecordAnswer]},
    )
    async def images(self, request: web.Request) -> web.Response:
        """Scope `read`. All of them: the answer is sent in parts."""
        name = await self._enter(request)
        view = await self._accounts.workspace(name)
        if view is None:
            raise ProblemError(404, f"there is no workspace {name!r}")
        # Encoded while they are read, sent when they all are: a slow reader holds no connection to
        # the database, and a failure is an answer of its own instead of half of this one.
        async with aclosing(self._records.all(view.id)) as found:
            parts = [msgspec.json.encode(part)[1:-1] async for part in found]
        # As a body, it is sent when this has returned: however slow its reader is, that is no time in
        # which it was not answered, which would be told in the middle of it.
        return web.Response(
            body=_joined(parts),
            headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
        )

    @describe(
        "internal",
        "Tell of an image: by workspace, app and tag it is made (201) or changed (200).",
        scope="write",
        platform=True,
        body=RecordRequest,
        answers={200: RecordAnswer, 201: RecordAnswer},
        problems=(409,),
        details="Taken without asking the registry, and corrected later where that knows better.",
    )
    async def put(self, request: web.Request) -> web.Response:
        """Scope `write`."""
        caller = await identify(request, self._authenticate, "write")
        body = await body_of(request, RecordRequest)
        enter(caller, "write", body.workspace)
        claim = Claim(body.workspace, body.app, body.tag, parse_digest(body.digest), body.sizeBytes)
        try:
            place = await self._records.place(claim)
            # A repository that counts elsewhere is moved: that needs rights there, too.
            enter_holder(caller, "write", place.now_in.workspace)
            record, created = await self._records.put(claim, place)
        except InvalidName as error:
            field = "app" if _is_repository(body.workspace) else "workspace"
            message = f"workspace and app must make a repository's name: {error}"
            raise ProblemError(
                400, f"{field}: {message}", errors=[{"field": field, "message": message}]
            ) from error
        except (CleanupRunningError, GoneMeanwhileError) as error:
            raise ProblemError(409, str(error), headers={"Retry-After": "5"}) from error
        except (MovedMeanwhileError, PlaceTakenError) as error:
            raise ProblemError(409, str(error)) from error
        return answer(record, status=201 if created else 200)

    @describe(
        "internal",
        "Forget a record; the image stays.",
        scope="write",
        platform=True,
        answers={200: Done},
        problems=(409,),
    )
    async def delete(self, request: web.Request) -> web.Response:
        """Scope `write`."""
        caller = await identify(request, self._authenticate, "write")
        record = await self._records.find(request.match_info["id"])
        if record is None or not caller.may("write", record.workspace):
            raise ProblemError(404, "there is no such record")
        try:
            await self._records.remove(record)
        except MovedMeanwhileError as error:
            raise ProblemError(409, str(error)) from error
        return answer({"success": True})

    async def _enter(self, request: web.Request) -> str:
        caller = await identify(request, self._authenticate, "read")
        name = workspace_name(request.match_info["id"])
        enter(caller, "read", name)
        return name


async def _joined(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    """One JSON array of what stands in these."""
    yield b"["
    for number, part in enumerate(parts):
        yield b"," + part if number else part
    yield b"]"


def _is_repository(name: str) -> bool:
    try:
        check_repository(name)
    except InvalidName:
        return False
    return True
