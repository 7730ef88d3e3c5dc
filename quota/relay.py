"""The relay: quota events from the outbox to Kafka, in order per workspace, each at least once.

One relay leads at a time (an advisory lock on its own connection). Rows are marked after Kafka has
them, so a relay that is killed between the two publishes again, with the same CloudEvents id.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ledger import outbox
from ledger.outbox import OutboxRow
from quota.metrics import QuotaMetrics
from runtime.kafka import QUOTA_EVENTS_TOPIC
from runtime.lifecycle import Stopping
from runtime.logs import Outcomes, get_logger
from runtime.postgres import UNAVAILABLE, Connection
from runtime.producers import DURABLE_SECONDS, discard_producer
from runtime.tracing import HEADER, Tracing

log = get_logger(__name__)

POLL_SECONDS = 0.1
BATCH = 500
MOST_LINES = 50
"""Events published at once that have a line each; of more, one line tells how many."""
_RETRY_SECONDS = 1.0
_NO_ROOM_SECONDS = 10.0
"""Until the next try where it cannot be written down what Kafka has: each sends the same events again."""

LONGEST_SILENCE = 60
"""Seconds after which Postgres ends the session of a leader that says nothing, so that another can
lead: its connection may have died without a word. Above `DURABLE_SECONDS`."""

LARGEST_BYTES = 8 * 1024 * 1024
"""Of an event: below what the topic takes. One that Kafka refuses would hold up all behind it."""


class _About(msgspec.Struct):
    digest: str | None = None


def cloud_event(row: OutboxRow) -> bytes:
    """CloudEvents 1.0, structured JSON.

    Lists of an event that is larger than a message may be are cut, and it says so (`shortened`);
    what a cleanup did with each image, `GET …/cleanups/{run}` tells in full.
    """
    value = _encoded(row, msgspec.Raw(row.data.encode()))
    if len(value) <= LARGEST_BYTES:
        return value
    data = msgspec.json.decode(row.data)
    for longest in (1000, 100, 10, 0):
        value = _encoded(row, _shortened(data, longest), shortened=True)
        if len(value) <= LARGEST_BYTES:
            break
    log.warning("quota_event_shortened", event_id=str(row.event_id), type=row.type)
    return value


def _encoded(row: OutboxRow, data: Any, **more: bool) -> bytes:
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": str(row.event_id),
            "source": "/registry-quota",
            "type": row.type,
            "subject": row.workspace,
            "time": row.occurred_at.isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            **more,
            "data": data,
        }
    )


def _shortened(data: Any, longest: int) -> Any:
    """The same with at most `longest` elements in any list."""
    if isinstance(data, dict):
        return {key: _shortened(value, longest) for key, value in data.items()}
    if isinstance(data, list):
        return [_shortened(value, longest) for value in data[:longest]]
    return data


class Relay:
    """Publishes what the ledger wants announced until it is asked to stop."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Connection]],
        open_producer: Callable[[], Awaitable[AIOKafkaProducer]],
        stopping: Stopping,
        clock: Callable[[], datetime],
        metrics: QuotaMetrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._connect = connect
        self._open_producer = open_producer
        self._stopping = stopping
        self._clock = clock
        self._metrics = metrics
        self._tracing = tracing
        self._outcomes = Outcomes("quota_event")
        self.leading = False
        """Whether publishing is this process's task now."""

    async def run(self) -> None:
        """Lead when nobody else does; after a fault begin again."""
        while not self._stopping.is_set():
            try:
                await self._lead()
            except (*UNAVAILABLE, asyncpg.PostgresError, KafkaError) as error:
                log.warning("relay_interrupted", reason=f"{type(error).__name__}: {error}")
                no_room = isinstance(error, asyncpg.DiskFullError)
                await self._stopping.sleep(_NO_ROOM_SECONDS if no_room else _RETRY_SECONDS)

    async def _lead(self) -> None:
        connection = await self._connect()
        try:
            while not await outbox.try_lead(connection):
                if await self._stopping.sleep(_RETRY_SECONDS):
                    return
            self.leading = True
            await self._publish(connection)
        finally:
            self.leading = False
            await connection.close(timeout=2)

    async def _publish(self, connection: Connection) -> None:
        # An idempotent producer is of no use after a failure: each term has one of its own.
        async with asyncio.timeout(DURABLE_SECONDS):
            producer = await self._open_producer()
        try:
            while not self._stopping.is_set():
                if await self.publish_some(connection, producer) < BATCH:
                    await self._stopping.sleep(POLL_SECONDS)
        finally:
            await discard_producer(producer)

    async def publish_some(self, connection: Connection, producer: AIOKafkaProducer) -> int:
        """Publish the oldest waiting events; returns how many."""
        rows = await outbox.unpublished(connection, BATCH)
        if not rows:
            return 0
        # The producer is idempotent: what is sent in order is stored in order, also after a retry.
        with publishing(self._tracing, rows) as contexts:
            async with asyncio.timeout(DURABLE_SECONDS):
                sent = [
                    await producer.send(
                        QUOTA_EVENTS_TOPIC,
                        value=cloud_event(row),
                        key=row.workspace.encode(),
                        headers=headers(contexts.get(row.id, row.traceparent)),
                    )
                    for row in rows
                ]
                await asyncio.gather(*sent)
            await outbox.mark_published(connection, [row.id for row in rows], self._clock())
        self._metrics.published.inc(len(rows))
        self._tell(rows)
        return len(rows)

    def _tell(self, rows: Sequence[OutboxRow]) -> None:
        if len(rows) > MOST_LINES and not self._outcomes.wants(logging.DEBUG):
            log.info("quota_events", events=len(rows), **Counter(row.type for row in rows))
        else:
            self._outcomes.write([line(row) for row in rows])


def line(row: OutboxRow) -> dict[str, Any]:
    """The log's line about an event that was published."""
    told = {"event_id": str(row.event_id), "type": row.type, "workspace": row.workspace}
    about = msgspec.json.decode(row.data, type=_About)
    if about.digest is not None:
        told["digest"] = about.digest
    return told


def headers(traceparent: str | None) -> list[tuple[str, bytes]]:
    """A quota event's headers."""
    found = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    if traceparent is not None:
        found.append((HEADER, traceparent.encode()))
    return found


@contextmanager
def publishing(tracing: Tracing | None, rows: Sequence[OutboxRow]) -> Iterator[Mapping[int, str]]:
    """A span for each event that comes from a trace: row → the span's context."""
    if tracing is None:
        yield {}
        return
    spans = {
        row.id: tracing.start(
            f"send {QUOTA_EVENTS_TOPIC}",
            kind="producer",
            parent=row.traceparent,
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": QUOTA_EVENTS_TOPIC,
                "messaging.message.id": str(row.event_id),
                "registry_quota.event_type": row.type,
                "registry_quota.workspace": row.workspace,
            },
        )
        for row in rows
        if row.traceparent is not None
    }
    try:
        yield {number: span.traceparent for number, span in spans.items()}
    except BaseException as error:
        for span in spans.values():
            span.failed(type(error).__name__)
        raise
    finally:
        for span in spans.values():
            span.end()
