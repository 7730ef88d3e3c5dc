"""What a call may take that holds nothing of ours yet: gRPC counts it from its headers on.

Whoever opens calls and sends no message, or watches the health without end, must not keep builds out.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

MESSAGE_SECONDS = 10.0
"""For the one message of a call to arrive."""

MOST_OPEN = 100
"""Calls at a time of each method that is open to everybody: health and reflection."""

METHODS = 5
"""How many such methods there are: Check, List and Watch, and two versions of reflection."""

MOST_WAITED_FOR = 100
"""Calls of one caller whose message has not come yet."""

Request = TypeVar("Request")


class Waiting:
    """Whose messages are waited for: who opens calls and sends nothing has a share, and no more."""

    def __init__(self, *, most: int = MOST_WAITED_FOR) -> None:
        self._most = most
        self._of = Counter[str]()

    async def arrived(self, caller: str, requests: AsyncIterator[Request], context: Any) -> Request:
        """As `arrived`. Aborts the call where so many of the caller's wait already."""
        if self._of[caller] >= self._most:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._most} calls of yours have sent no message yet",
            )
        self._of[caller] += 1
        try:
            return await arrived(requests, context)
        finally:
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]


async def arrived(requests: AsyncIterator[Request], context: Any) -> Request:
    """The message of a call that has one. Aborts the call when none comes."""
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            async for request in requests:
                return request
    except TimeoutError:
        await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"the message did not arrive within {MESSAGE_SECONDS:g} seconds",
        )
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
    raise AssertionError("unreachable")


class OpenToAll(grpc.aio.ServerInterceptor):
    """Counts the calls of every service but `ours`: of each method there are never more than `most`.

    Of each, so that those who watch without end do not keep a probe from asking once.
    """

    def __init__(self, ours: str, *, most: int = MOST_OPEN) -> None:
        self._ours = f"/{ours}/"
        self._most = most
        self._open = Counter[str]()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, as one of a stream: so it is called before any message is there."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(self._ours):
            return handler

        async def bounded(requests: AsyncIterator[Any], context: Any) -> None:
            if self._open[method] >= self._most:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._most} calls of this method are open",
                )
            self._open[method] += 1
            try:
                await _answered(handler, requests, context)
            finally:
                self._open[method] -= 1

        return grpc.stream_stream_rpc_method_handler(
            bounded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def _answered(handler: Any, requests: AsyncIterator[Any], context: Any) -> None:
    """What the handler of any kind would have answered."""
    given = requests if handler.request_streaming else await arrived(requests, context)
    if handler.unary_unary is not None:
        await context.write(await handler.unary_unary(given, context))
        return
    answers = (handler.unary_stream or handler.stream_stream)(given, context)
    if isinstance(answers, AsyncIterator):
        async for answer in answers:
            await context.write(answer)
    else:
        await answers  # writes by itself
