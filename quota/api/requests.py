"""What callers send. Unknown workspaces, apps and digests are fine; nonsense is told by field."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from quota.api.gate import GATE, is_known
from quota.api.problems import ProblemError, of_validation
from runtime.aside import aside

BODY_SECONDS = 20.0
"""What a body may take to arrive: at most 1 MiB, by callers that are waiting for the answer."""
_BODY_SECONDS_OF_NOBODY = 5.0
"""The same of those who do not say who they are."""
_HANG_UP = {"Connection": "close"}

_MOST_FIELDS = 20
"""Of a form: ours have three."""

MAX_BYTES = 2**62
"""Larger sizes than any storage has; sums of a few of them stay within 64 bits."""

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Digest = Annotated[
    str,
    StringConstraints(pattern=r"^(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$"),
]
ByteCount = Annotated[int, Field(ge=0, le=MAX_BYTES, strict=True)]
Seconds = Annotated[float, Field(gt=0, le=600, strict=True)]


class Layer(BaseModel):
    """A layer of the image that is going to be pushed."""

    model_config = ConfigDict(frozen=True)

    digest: Digest
    size: ByteCount


class PreBuildRequest(BaseModel):
    """`POST /v1/hooks/pre-build`. Only the workspace is required. Bytes and seconds."""

    model_config = ConfigDict(frozen=True, extra="allow")

    workspace: Name
    app: Name | None = None
    build_id: Name | None = None
    incoming_bytes: ByteCount | None = None
    layers: list[Layer] | None = Field(None, max_length=10_000)
    dry_run: bool = Field(default=False, strict=True)
    timeout_s: Seconds = 60.0


class WorkspacePatch(BaseModel):
    """`PATCH /v1/workspaces/{workspace}`: what is absent stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quota_bytes: Annotated[int, Field(strict=True, le=MAX_BYTES)] | None = None
    policy: dict[str, Any] | None = None
    enforcement: Literal["advisory", "strict"] | None = None


class WorkspacePut(WorkspacePatch):
    """`PUT /v1/workspaces/{workspace}`: what is absent goes back to its default."""

    quota_bytes: Annotated[int, Field(strict=True, le=MAX_BYTES)]
    policy: dict[str, Any] = Field(default_factory=dict)
    enforcement: Literal["advisory", "strict"] = "advisory"


class ReservationRequest(BaseModel):
    """`POST /v1/workspaces/{workspace}/reservations`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    build_id: Name
    bytes: ByteCount
    app: Name | None = None
    ttl_s: int = Field(3600, ge=1, le=86_400, strict=True)


class GcVerificationRequest(BaseModel):
    """`POST /v1/gc/verifications`: without a workspace, all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: Name | None = None


class LeaseRequest(BaseModel):
    """`POST /v1/workspaces/{workspace}/leases`: everything that the source has in use. Seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Name
    digests: list[Digest] = Field(max_length=10_000)
    ttl_s: int = Field(3600, ge=1, le=30 * 86_400, strict=True)


class MappingRequest(BaseModel):
    """`PUT /v1/repositories/{registry}/{repository}`: without an app it keeps the one it has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: Name
    app: Name | None = None


class TokenRequest(BaseModel):
    """`POST /v1/tokens`. `workspaces` null: all of them, said on purpose. Seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scopes: list[Literal["read", "hook", "write", "admin"]] = Field(min_length=1, max_length=4)
    workspaces: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None
    name: Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    ttl_s: Annotated[int, Field(strict=True, ge=1, le=10 * 365 * 86_400)] | None = None


class PlanRequest(BaseModel):
    """`POST /v1/workspaces/{workspace}/cleanup-plans`: for a build, as the pre-build hook plans it.

    `incoming_bytes` are the build's; what is reserved under `build_id` is then not counted beside them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    incoming_bytes: ByteCount = 0
    build_id: Name | None = None


class CleanupRequest(BaseModel):
    """`POST /v1/workspaces/{workspace}/cleanups`. Seconds; without a plan one is made now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: UUID | None = None
    timeout_s: Seconds = 60.0


class RestoreRequest(BaseModel):
    """`POST /v1/workspaces/{workspace}/restores`: a cleanup's run, or one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: UUID | None = None
    image: Annotated[
        str | None,
        Field(max_length=1000, description="REPOSITORY:TAG, REPOSITORY@DIGEST or DIGEST."),
    ] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.run is None) == (self.image is None):
            raise ValueError("give either `run` (a cleanup's id) or `image`")
        return self


_FIRST_DATE: Final = datetime(2000, 1, 1, tzinfo=UTC)


class DateRequest(BaseModel):
    """`POST /v1/workspaces/{workspace}/image-dates`: one image, or all of unknown age."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: Annotated[
        AwareDatetime, Field(description="Since when it is what it is: RFC 3339, from 2000 to now.")
    ]
    image: Annotated[
        str | None,
        Field(
            max_length=1000,
            description="REPOSITORY:TAG, REPOSITORY@DIGEST or DIGEST; left out: all of unknown age.",
        ),
    ] = None
    app: Annotated[
        str | None, Field(max_length=255, description="Without `image`: only those of this app.")
    ] = None

    @model_validator(mode="after")
    def _believable(self) -> Self:
        if self.date < _FIRST_DATE:
            raise ValueError("`date` must be 2000-01-01 or later")
        if self.image is not None and self.app is not None:
            raise ValueError("give either `image` or `app`")
        return self


Model = TypeVar("Model", bound=BaseModel)


async def body_of(request: web.Request, model: type[Model]) -> Model:
    """The request's JSON as a model. Raises ProblemError 400, naming each wrong field."""
    raw = await arrived(request)
    return await aside(len(raw), _model_of, raw, model)


def _model_of(raw: bytes, model: type[Model]) -> Model:
    try:
        document = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise _bad_body(f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _bad_body("must be a JSON object")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise of_validation(error) from error


async def form_of(request: web.Request) -> dict[str, str]:
    """The fields of a form as browsers send ours. Raises ProblemError: 415 for another kind, 400.

    No other kind is unpacked: those have parts, files and encodings of their own to go wrong.
    """
    raw = await arrived(request)
    if raw and request.content_type != "application/x-www-form-urlencoded":
        raise ProblemError(415, "a form is sent as application/x-www-form-urlencoded")
    try:
        return dict(parse_qsl(raw.decode(), errors="strict", max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise _bad_body(f"is no form: {error}") from error


async def arrived(request: web.Request) -> bytes:
    """A request's body. Raises ProblemError: 400, 413, 408 when it takes too long, 503 for too many."""
    gate = request.get(GATE)
    seconds = BODY_SECONDS if is_known(request) else min(BODY_SECONDS, _BODY_SECONDS_OF_NOBODY)
    beside = contextlib.nullcontext() if gate is None else gate.beside(request)
    try:
        with beside:
            async with asyncio.timeout(seconds):
                return await request.read()
    except TimeoutError as error:
        raise ProblemError(
            408, f"the body did not arrive within {seconds:g} seconds", headers=_HANG_UP
        ) from error
    except web.HTTPRequestEntityTooLarge as error:
        raise ProblemError(413, "the body is larger than 1 MiB") from error
    except (web.RequestPayloadError, ContentEncodingError, ConnectionError) as error:
        # A connection that was lost is nobody's trouble but its caller's.
        raise _bad_body(f"cannot be read: {error}") from error


def _bad_body(message: str) -> ProblemError:
    return ProblemError(400, f"the body {message}", errors=[{"field": "body", "message": message}])


def workspace_of(request: web.Request) -> str:
    """The workspace in the path. Raises ProblemError 404 for what can be no workspace's name."""
    return workspace_name(request.match_info["workspace"])


def workspace_name(name: str) -> str:
    """A name that a workspace may have. Raises ProblemError 404."""
    if not name or len(name) > 255 or not name.isprintable():
        raise ProblemError(404, "there is no such workspace")
    return name


def identifier(request: web.Request) -> UUID:
    """The id in the path. Raises ProblemError 404 for what can be no id."""
    try:
        return UUID(request.match_info["id"])
    except ValueError as error:
        raise ProblemError(404, "there is nothing with this id") from error


def number(request: web.Request, name: str, *, default: int, low: int, high: int) -> int:
    """A whole number of the query. Raises ProblemError 400."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = int(text) if len(text) < 20 and text.isascii() else low - 1
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        message = f"must be a whole number from {low} to {high}"
        raise ProblemError(400, f"{name}: {message}", errors=[{"field": name, "message": message}])
    return value


def cursor_id(request: web.Request) -> UUID | None:
    """A cursor that is the id of a page's last entry. Raises ProblemError 400."""
    given = text(request, "cursor")
    try:
        return None if given is None else UUID(given)
    except ValueError as error:
        raise bad_cursor() from error


def bad_cursor() -> ProblemError:
    """A cursor that no page gave."""
    wrong = [{"field": "cursor", "message": "not one that a page gave"}]
    return ProblemError(400, "cursor: not one that a page gave", errors=wrong)


def text(request: web.Request, name: str) -> str | None:
    """A text of the query. Raises ProblemError 400 when the database could not take it."""
    value = request.query.get(name)
    if value is not None and (len(value) > 255 or not encodable(value)):
        raise ProblemError(
            400,
            f"{name}: not a text that anything here is named by",
            errors=[{"field": name, "message": "not a usable text"}],
        )
    return value


def encodable(value: str) -> bool:
    """Whether the database can take a text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value
