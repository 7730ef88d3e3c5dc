"""A span for each call of our service, in the trace that its `traceparent` metadata names."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from quota.grpc.service import SERVICE
from runtime.tracing import HEADER, Tracing, spanning


class TracedCalls(grpc.aio.ServerInterceptor):
    """Not for health and reflection; and those whom nobody let in leave no span."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, with a span around it."""
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.strip("/").partition("/")
        if handler is None or service != SERVICE:
            return handler
        parent = next(
            (value for key, value in handler_call_details.invocation_metadata if key == HEADER),
            None,
        )
        behaviour = handler.stream_unary

        async def in_a_span(requests: Any, context: Any) -> Any:
            with spanning(
                self._tracing,
                f"{service}/{method}",
                kind="server",
                parent=parent if isinstance(parent, str) else None,
                attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            ) as span:
                try:
                    return await behaviour(requests, context)
                finally:
                    code = context.code() or grpc.StatusCode.OK
                    if span is not None:
                        span.note({"rpc.grpc.status_code": _number(code)})
                        if code is grpc.StatusCode.UNAUTHENTICATED:
                            span.forget()

        return grpc.stream_unary_rpc_method_handler(
            in_a_span,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _number(code: grpc.StatusCode | int) -> int:
    if isinstance(code, int):
        return code
    number: int = code.value[0]
    return number
