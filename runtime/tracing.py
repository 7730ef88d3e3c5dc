"""Where work came from: traces by OpenTelemetry, off and next to free unless an endpoint is set.

Rooms know this module alone. The library (extra `otel`) is imported by `runtime.otel`, and only when
traces are sent. What goes from process to process is W3C's `traceparent`: in HTTP and gRPC requests,
in the headers of Kafka records, and in the outbox.
"""

from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Final, Literal, NamedTuple, Protocol

from structlog.contextvars import bound_contextvars

from runtime.logs import get_logger

log = get_logger(__name__)

HEADER: Final = "traceparent"
"""Of a request, of a record: `00-<trace>-<span>-<flags>`."""

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """Something that takes its time."""

    @property
    def traceparent(self) -> str:
        """Its context, for others to refer to."""

    def note(self, attributes: Attributes) -> None:
        """Say more about it."""

    def failed(self, reason: str) -> None:
        """It did not do what it was to."""

    def forget(self) -> None:
        """It is not worth being told of: it is not sent."""

    def end(self) -> None:
        """It is over."""


class Tracing(Protocol):
    """The traces of one process."""

    def start(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        links: Sequence[str] = (),
        attributes: Attributes | None = None,
    ) -> Span:
        """A span that begins now. What is no traceparent in `parent` or `links` is left out."""


class _Doing(NamedTuple):
    tracing: Tracing
    span: Span
    origins: Mapping[Hashable, str]


_doing: ContextVar[_Doing | None] = ContextVar("registry_quota_doing", default=None)


def traceparent(*subjects: Hashable) -> str | None:
    """The context to hand on: of the first of `subjects` that has one of its own (see `originating`),
    else of the span around. None when nothing is traced.
    """
    doing = _doing.get()
    if doing is None:
        return None
    for subject in subjects:
        if origin := doing.origins.get(subject):
            return origin
    return doing.span.traceparent


def note(attributes: Attributes) -> None:
    """Say more about the span around, if there is one."""
    if (doing := _doing.get()) is not None:
        doing.span.note(attributes)


@contextmanager
def spanning(
    tracing: Tracing | None,
    name: str,
    *,
    kind: Kind,
    parent: str | None = None,
    links: Sequence[str] = (),
    attributes: Attributes | None = None,
) -> Iterator[Span | None]:
    """A span around a block, where work enters the process: a child of `parent`, else a new trace.

    Lines of the log within the block carry its `trace_id`. Without traces there is no span.
    """
    if tracing is None:
        yield None
        return
    span = tracing.start(name, kind=kind, parent=parent, links=links, attributes=attributes)
    token = _doing.set(_Doing(tracing, span, {}))
    try:
        with bound_contextvars(trace_id=span.traceparent.split("-")[1]):
            yield span
    except BaseException as error:
        span.failed(type(error).__name__)
        raise
    finally:
        _doing.reset(token)
        span.end()


@contextmanager
def part(
    name: str, *, kind: Kind = "internal", attributes: Attributes | None = None
) -> Iterator[Span | None]:
    """A span around a part of what goes on; none when nothing is traced."""
    doing = _doing.get()
    if doing is None:
        yield None
        return
    span = doing.tracing.start(
        name, kind=kind, parent=doing.span.traceparent, attributes=attributes
    )
    token = _doing.set(_Doing(doing.tracing, span, doing.origins))
    try:
        yield span
    except BaseException as error:
        span.failed(type(error).__name__)
        raise
    finally:
        _doing.reset(token)
        span.end()


@contextmanager
def originating(origins: Mapping[Hashable, str]) -> Iterator[None]:
    """Within the span around, work on some subjects came from elsewhere: subject → traceparent."""
    doing = _doing.get()
    if doing is None:
        yield
        return
    token = _doing.set(_Doing(doing.tracing, doing.span, origins))
    try:
        yield
    finally:
        _doing.reset(token)


def why_off(environ: Mapping[str, str]) -> str | None:
    """Why no traces are sent, by OpenTelemetry's own variables; None when they are.

    An empty text: nobody asked for them.
    """
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if not endpoint or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    exporter = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter != "otlp":
        return "" if exporter == "none" else f"OTEL_TRACES_EXPORTER={exporter}: only otlp is known"
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol not in (None, "", "http/protobuf"):
        return f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: only http/protobuf (port 4318) is spoken"
    return None


@asynccontextmanager
async def open_tracing(process: str, environ: Mapping[str, str]) -> AsyncIterator[Tracing | None]:
    """The traces of a process, which `process` names; None when they are off.

    Traces never keep anything from working: what is wrong with them is a line in the log. On leaving,
    what is not sent yet gets half a second.
    """
    reason = why_off(environ)
    if reason is None:
        try:
            otel = import_module("runtime.otel")
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("opentelemetry"):
                raise
            reason = "this needs the extra: pip install 'registry-quota[otel]'"
        else:
            log.info("traces_on")
            async with otel.sending(process, environ) as tracing:
                yield tracing
            return
    if reason:
        log.warning("traces_off", reason=reason)
    yield None
