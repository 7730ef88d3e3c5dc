"""The traces of a batch: one span for the transaction's batch, one for each event that has a trace.

Events of many traces share one transaction. So the batch is a trace of its own, linked with theirs,
and each event's span stays in the trace of its delivery: what is announced because of an event is in
that trace, too.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from aiokafka import ConsumerRecord

from consumer.outcomes import Decoded
from registry.names import format_digest
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.tracing import HEADER, Attributes, Span, Tracing, originating, spanning

MOST_LINKS = 128
"""What the library keeps."""

_PLACE: Attributes = {
    "messaging.system": "kafka",
    "messaging.destination.name": NOTIFICATIONS_TOPIC,
    "messaging.operation.type": "process",
}


@contextmanager
def tracing_batch(tracing: Tracing | None, decoded: Sequence[Decoded]) -> Iterator[None]:
    """Spans around a batch's transaction; its quota events go back to the events that caused them."""
    if tracing is None:
        yield
        return
    came_from = [traceparent_of(item.record) for item in decoded]
    links = list(dict.fromkeys(origin for origin in came_from if origin))[:MOST_LINKS]
    with spanning(
        tracing,
        f"process {NOTIFICATIONS_TOPIC}",
        kind="consumer",
        links=links,
        attributes={**_PLACE, "messaging.batch.message_count": len(decoded)},
    ) as batch:
        around = (batch.traceparent,) if batch else ()
        spans = [
            (item, _event_span(tracing, item, origin, around))
            for item, origin in zip(decoded, came_from, strict=True)
            if origin
        ]
        origins: dict[Hashable, str] = {}
        for item, span in spans:
            # Of several that concern one image or workspace, the last decided.
            origins[workspace_of(item.record)] = span.traceparent
            if item.notification is not None and item.notification.digest:
                digest = format_digest(item.notification.digest)
                origins[item.notification.repository, digest] = span.traceparent
        try:
            with originating(origins):
                yield
        except BaseException as error:
            for _item, span in spans:
                span.failed(type(error).__name__)
            raise
        finally:
            for item, span in spans:
                span.note({"registry_quota.result": item.result})
                span.end()


def _event_span(tracing: Tracing, item: Decoded, origin: str, batch: tuple[str, ...]) -> Span:
    about: dict[str, str | int] = {
        "messaging.destination.partition.id": str(item.record.partition),
        "messaging.kafka.offset": item.record.offset,
        "registry_quota.workspace": workspace_of(item.record),
    }
    if item.notification is not None:
        about["messaging.message.id"] = item.notification.id
        about["registry_quota.repository"] = item.notification.repository
        if item.notification.digest:
            about["registry_quota.digest"] = format_digest(item.notification.digest)
    return tracing.start(
        f"process {item.action}",
        kind="consumer",
        parent=origin,
        links=batch,
        attributes={**_PLACE, **about},
    )


def workspace_of(record: ConsumerRecord) -> str:
    """The record's key."""
    return (record.key or b"").decode(errors="replace")


def traceparent_of(record: ConsumerRecord) -> str | None:
    """The context that the receiver put into the record's headers."""
    for name, value in record.headers or ():
        if name == HEADER:
            return bytes(value).decode("ascii", "replace")
    return None
