"""Spans by OpenTelemetry's SDK, sent by OTLP over HTTP. Imported only when traces are sent."""

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)

from runtime.logs import get_logger
from runtime.tracing import Attributes, Kind, Tracing

log = get_logger(__name__)

_TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-|\Z)")
_KINDS: Final[dict[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_WAITING: Final = 16_384
"""Spans that may wait for being sent: those of a few batches. More are dropped."""
_GOODBYE_SECONDS: Final = 0.5
_COMPLAINT_PAUSE: Final = 60.0


def context_of(traceparent: str) -> SpanContext | None:
    """The context that W3C's header names; None when it names none."""
    match = _TRACEPARENT.match(traceparent)
    if match is None or traceparent.startswith("ff"):
        return None
    context = SpanContext(
        trace_id=int(match[1], 16),
        span_id=int(match[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[3], 16) & TraceFlags.SAMPLED),
    )
    return context if context.is_valid else None


class OtelSpan:
    """`runtime.tracing.Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._forgotten = False
        context = span.get_span_context()
        flags = context.trace_flags & TraceFlags.SAMPLED
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    def note(self, attributes: Attributes) -> None:
        """Say more about it."""
        self._span.set_attributes(attributes)

    def failed(self, reason: str) -> None:
        """It did not do what it was to."""
        self._span.set_attribute("error.type", reason)
        self._span.set_status(StatusCode.ERROR)

    def forget(self) -> None:
        """It is not sent."""
        self._forgotten = True

    def end(self) -> None:
        """It is over."""
        if not self._forgotten:
            self._span.end()


class OtelTracing:
    """`runtime.tracing.Tracing`."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        links: Sequence[str] = (),
        attributes: Attributes | None = None,
    ) -> OtelSpan:
        """A span that begins now."""
        around = context_of(parent) if parent else None
        # Never the library's own current context: what goes on is known to `runtime.tracing`.
        context = Context()
        if around is not None:
            context = trace.set_span_in_context(NonRecordingSpan(around), context)
        return OtelSpan(
            self._tracer.start_span(
                name,
                context,
                kind=_KINDS[kind],
                links=[Link(found) for link in links if (found := context_of(link)) is not None],
                attributes=attributes,
            )
        )


class _Complaints(logging.Handler):
    """The library complains at every attempt while nobody takes the spans: once a minute will do."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._complained_at = -_COMPLAINT_PAUSE

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it as a line of ours."""
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAINT_PAUSE:
            self._complained_at = now
            log.warning("traces_not_sent", reason=record.getMessage()[:500])


def _complain_sparingly() -> None:
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _Complaints) for handler in logger.handlers):
        logger.addHandler(_Complaints())
        logger.propagate = False


def _resource(process: str, environ: Mapping[str, str]) -> Resource:
    """Who sends. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win where they are set."""
    ours = {
        "service.namespace": "registry-quota",
        "service.name": f"registry-quota-{process}",
        "service.version": version("registry-quota"),
    }
    given = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create(
        {
            name: value
            for name, value in ours.items()
            if f"{name}=" not in given
            and not (name == "service.name" and environ.get("OTEL_SERVICE_NAME"))
        }
    )


@asynccontextmanager
async def sending(process: str, environ: Mapping[str, str]) -> AsyncIterator[Tracing]:
    """Spans that are sent in the background, by a thread of the library."""
    _complain_sparingly()
    provider = TracerProvider(resource=_resource(process, environ), shutdown_on_exit=False)
    waiting = None if environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else _WAITING
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=waiting))
    try:
        yield OtelTracing(provider.get_tracer("registry-quota", version("registry-quota")))
    finally:
        # A thread of its own that nobody waits for at the end: the library may try for many seconds.
        sent = asyncio.Event()
        loop = asyncio.get_running_loop()

        def goodbye() -> None:
            provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=goodbye, name="otel-goodbye", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await sent.wait()
