"""A collector: takes spans by OTLP over HTTP (protobuf), as OpenTelemetry's own does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from runtime.http import serving


@dataclass(frozen=True)
class Received:
    """A span as it arrived; ids in hexadecimal."""

    service: str
    name: str
    kind: int
    trace: str
    span: str
    parent: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any] = field(hash=False)
    failed: bool

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{self.span}-01"


class Collector:
    """Everything that was sent."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.endpoint = ""
        self.refusing = False

    async def take(self, request: web.Request) -> web.Response:
        if self.refusing:
            raise web.HTTPServiceUnavailable
        assert request.content_type == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [
                    Received(
                        service,
                        span.name,
                        span.kind,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                        _values(span.attributes),
                        span.status.code == 2,
                    )
                    for span in scope.spans
                ]
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    def of(self, trace: str, name: str) -> Received:
        """The one span of this name in a trace. AssertionError while there is none."""
        found = [span for span in self.spans if (span.trace, span.name) == (trace, name)]
        assert len(found) == 1, (name, [span.name for span in self.spans])
        return found[0]


def _values(attributes: Any) -> dict[str, Any]:
    pairs: list[KeyValue] = list(attributes)
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in pairs
    }


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    async with serving(app, host="127.0.0.1", port=0) as port:
        collector.endpoint = f"http://127.0.0.1:{port}"
        yield collector
