"""`idp.build.v1.BuildService`: parse, one call, answer. Failures of the domain stand in `error`.

Status codes are for the call itself: UNAUTHENTICATED without a good token, PERMISSION_DENIED for a
workspace that is not the caller's (whether it exists or not) or a scope that it lacks, INVALID_ARGUMENT
for bytes that are no message, UNAVAILABLE while our own parts are away.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from idp.build.v1 import build_pb2 as pb
from quota.access import Authenticate, Principal, Refusals
from quota.api.problems import Refused
from quota.api.requests import MAX_BYTES
from quota.builds import PreBuild
from quota.grpc.bounds import Waiting
from quota.hook import Answer, PreBuildHook
from quota.outcome import Deleted
from quota.tracking import NotYoursError, Pushed, Tracker, TrackingError
from registry.names import (
    InvalidDigest,
    InvalidName,
    check_repository,
    check_tag,
    format_digest,
    parse_digest,
)
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE

log = get_logger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["BuildService"].full_name

_WITHOUT_DEADLINE = 60.0
"""Seconds that a caller is taken to wait who does not say."""
_LONGEST = 600.0
_SHARE = 0.9
"""Share of the time left in which the answer is made; the rest is its way back."""

_Context = grpc.aio.ServicerContext[Message, Message]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class BuildService:
    """The two calls of a build platform."""

    def __init__(
        self,
        *,
        hook: PreBuildHook,
        tracker: Tracker,
        authenticate: Authenticate,
        refused: Refused = lambda _why: None,
    ) -> None:
        self._hook = hook
        self._tracker = tracker
        self._authenticate = authenticate
        self._refusals = Refusals("grpc")
        self._refused = refused
        self._waiting = Waiting()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server adds. Unreadable bytes reach us as None, not as an internal error."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "CheckQuotaAndCleanup": self._handler(
                    pb.CheckQuotaRequest, "hook", self.check_quota
                ),
                "TrackImage": self._handler(pb.TrackImageRequest, "write", self.track_image),
            },
        )

    async def check_quota(
        self, caller: Principal, request: pb.CheckQuotaRequest, context: _Context
    ) -> pb.CheckQuotaResponse:
        """Scope `hook`. Answers within the caller's deadline; what is not cleaned by then goes on."""
        estimate = request.incoming_image_size_estimate
        if problem := _name_problem("workspace_id", request.workspace_id):
            return pb.CheckQuotaResponse(error=problem)
        if not 0 <= estimate <= MAX_BYTES:
            return pb.CheckQuotaResponse(
                error=f"incoming_image_size_estimate must be from 0 to {MAX_BYTES} bytes"
            )
        if not caller.may("hook", request.workspace_id):
            self._refused("denied")
            self._refusals.forbidden(caller, "hook", request.workspace_id)
            await _deny(context, request.workspace_id)
        log.info(
            "call", method="CheckQuotaAndCleanup", workspace=request.workspace_id, by=caller.name
        )
        answer = await self._hook.check(
            PreBuild(
                workspace=request.workspace_id,
                incoming_bytes=estimate or None,
                timeout_s=_time_left(context),
            )
        )
        return check_response(answer)

    async def track_image(
        self, caller: Principal, request: pb.TrackImageRequest, context: _Context
    ) -> pb.TrackImageResponse:
        """Scope `write`, on the workspace that is named and on the one that has the repository."""
        try:
            pushed = pushed_image(request)
        except ValueError as error:
            return pb.TrackImageResponse(error=str(error))
        log.info("call", method="TrackImage", workspace=pushed.workspace, by=caller.name)
        seconds = _time_left(context)
        try:
            async with asyncio.timeout(seconds):
                tracked = await self._tracker.track(
                    pushed, lambda workspace: caller.may("write", workspace)
                )
        except NotYoursError as error:
            self._refused("denied")
            self._refusals.forbidden(caller, "write", str(error))
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"this token has no rights on workspace {pushed.workspace!r}, or on the one that has "
                "the repository",
            )
        except TrackingError as error:
            return _not_tracked(pushed, str(error))
        except TimeoutError:
            return _not_tracked(
                pushed,
                f"not done within {seconds:.1f} s; try again, or leave it to the registry's event",
            )
        log.info("image_tracked", **_about(pushed), size_bytes=tracked.size_bytes)
        return pb.TrackImageResponse(
            size_bytes=tracked.size_bytes, new_total_usage=tracked.usage_bytes
        )

    def _handler(
        self,
        kind: type[Request],
        scope: str,
        behaviour: Callable[[Principal, Request, _Context], Awaitable[Response]],
    ) -> "grpc.RpcMethodHandler[Request | None, Response]":
        def read(raw: bytes) -> Request | None:
            try:
                return kind.FromString(raw)
            except (DecodeError, ValueError):
                return None

        async def answer(requests: AsyncIterator[Request | None], context: _Context) -> Response:
            try:
                caller = await self._identify(context, scope)
                request = await self._waiting.arrived(caller.name, requests, context)
                if request is None:
                    await context.abort(
                        grpc.StatusCode.INVALID_ARGUMENT, f"this is not a {kind.DESCRIPTOR.name}"
                    )
                return await behaviour(caller, request, context)
            except UNAVAILABLE as error:
                log.warning("database_away", call=kind.DESCRIPTOR.name, reason=repr(error))
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE, "the database does not answer; try again shortly"
                )
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError as error:
                # Who called has gone: hundreds of such calls must not write a traceback each.
                raise asyncio.CancelledError from error
            except Exception:
                log.exception("call_failed", call=kind.DESCRIPTOR.name)
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE,
                    "something went wrong on our side; it is in the log",
                )

        # As a stream, so that nobody's message is read, or waited for, who did not show a token.
        return grpc.stream_unary_rpc_method_handler(
            answer, request_deserializer=read, response_serializer=_write
        )

    async def _identify(self, context: _Context, scope: str) -> Principal:
        scheme, _, token = _authorization(context).partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            self._refused("unauthenticated")
            self._refusals.unknown(remote=context.peer())
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "send the metadata `authorization: Bearer TOKEN`"
            )
        principal = await self._authenticate(token)
        if principal is None:
            self._refused("unauthenticated")
            self._refusals.unknown(remote=context.peer())
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "this token is not known (or it was revoked, or has expired)",
            )
        if not principal.has(scope):
            self._refused("denied")
            self._refusals.forbidden(principal, scope)
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"this token lacks the scope `{scope}`"
            )
        return principal


def _about(pushed: Pushed) -> dict[str, object]:
    return {
        "workspace": pushed.workspace,
        "app": pushed.app,
        "repository": pushed.repository,
        "tag": pushed.tag,
        "digest": None if pushed.digest is None else format_digest(pushed.digest),
    }


def _not_tracked(pushed: Pushed, reason: str) -> pb.TrackImageResponse:
    log.warning("image_not_tracked", **_about(pushed), reason=reason)
    return pb.TrackImageResponse(error=reason)


def check_response(answer: Answer) -> pb.CheckQuotaResponse:
    """The hook's answer as the message. What kept it from doing its work stands in `error`."""
    verdict, outcome = answer.verdict, answer.outcome
    failed = (
        verdict.decision == "deny"
        or verdict.reason in ("check_failed", "over_quota")
        or (verdict.reason == "still_above_target" and outcome.stopped)
    )
    return pb.CheckQuotaResponse(
        cleanup_performed=bool(outcome.images),
        current_usage_bytes=answer.figures.usage_bytes,
        quota_bytes=answer.figures.quota_bytes,
        cleaned_images=[entry for image in outcome.images for entry in _cleaned(image)],
        error=verdict.message if failed else "",
    )


def _cleaned(image: Deleted) -> list[pb.CleanedImage]:
    """One entry a tag, the freed bytes on the first. An untagged manifest has one without a tag."""
    return [
        pb.CleanedImage(
            app_name=image.app, tag=tag, size_bytes=0 if position else image.freed_bytes
        )
        for position, tag in enumerate(image.tags or ("",))
    ]


def pushed_image(request: pb.TrackImageRequest) -> Pushed:
    """The request's image. Raises ValueError naming the field. `registry_url` is not looked at."""
    missing = [
        field
        for field in ("workspace_id", "app_id", "tag", "repository")
        if not getattr(request, field)
    ]
    if missing:
        raise ValueError(f"{', '.join(missing)}: required")
    for field in ("workspace_id", "app_id"):
        if problem := _name_problem(field, getattr(request, field)):
            raise ValueError(problem)
    try:
        return Pushed(
            workspace=request.workspace_id,
            app=request.app_id,
            repository=check_repository(request.repository),
            tag=check_tag(request.tag),
            digest=parse_digest(request.digest) if request.digest else None,
        )
    except InvalidDigest as error:
        raise ValueError(f"digest: {error}") from error
    except InvalidName as error:
        field = "tag" if str(error).startswith("tag") else "repository"
        raise ValueError(f"{field}: {error}") from error


def _name_problem(field: str, name: str) -> str | None:
    """Why a text cannot name a workspace or an app; None when it can. As at the HTTP door."""
    if not name:
        return f"{field}: required"
    if len(name) > 255:
        return f"{field}: at most 255 characters, this one has {len(name)}"
    if any(character < " " or character == "\x7f" for character in name):
        return f"{field}: control characters are not allowed"
    return None


def _authorization(context: _Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode(errors="replace")
    return ""


def _time_left(context: _Context) -> float:
    """Seconds in which to answer."""
    # The stubs leave it out, but a call without a deadline has None.
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return _WITHOUT_DEADLINE
    return max(0.001, min(remaining, _LONGEST) * _SHARE)


async def _deny(context: _Context, workspace: str) -> NoReturn:
    await context.abort(
        grpc.StatusCode.PERMISSION_DENIED, f"this token has no rights on workspace {workspace!r}"
    )


def _write(message: Message) -> bytes:
    return message.SerializeToString()
