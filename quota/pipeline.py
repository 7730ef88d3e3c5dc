"""How the pipeline stands: what waits in Kafka, what waits in Postgres, what the newest recount found."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ledger import figures, handled, offsets, reading, reconcile, runs, verify
from ledger import health as health_rows
from quota import health
from quota.cleaning import STALE_AFTER
from quota.complaints import Complaints
from quota.receiver import ReceiverWatch
from quota.registry_watch import RegistryWatch
from runtime import groups
from runtime.kafka import (
    DEAD_LETTER_TOPIC,
    NOTIFICATIONS_TOPIC,
    cluster_id,
    connection_options,
    start,
)
from runtime.logs import get_logger
from runtime.postgres import Connection, Pool
from runtime.settings import DEFAULT_REGISTRY, Settings
from runtime.topics import Extent, TopicReader, topic_reader

log = get_logger(__name__)

_KAFKA_PATIENCE: Final = 3.0
"""Seconds for Kafka's answers: the status must come while it is away."""
_LAYOUT_FRESH: Final = 10.0
"""Seconds after which partitions and their first offsets are asked for again."""
_AGE_FRESH: Final = 1.0
"""Seconds for which the oldest waiting event is not looked for again."""
_MEMBERS_FRESH: Final = 2.0
"""Seconds for which consumers are not counted again."""
_RECENT: Final = timedelta(hours=1)
"""What counts as a recent error."""
_WITHOUT_OWNER: Final = STALE_AFTER + timedelta(seconds=60)
"""A run is taken over after the first; one that is not for longer, somebody has to see."""
_MOST_NAMED: Final = 20
_KAFKA_PAUSE: Final = 2.0
"""Seconds for which a Kafka that did not answer is not asked again."""


class Flow(msgspec.Struct, frozen=True):
    """What waits in Kafka; None: Kafka does not tell."""

    kafka_reachable: bool = False
    lag_events: int | None = None
    """Events that are not recorded yet; below 0 where the log ends before what was read."""
    lag_seconds: float | None = None
    """Since the oldest of them arrived."""
    dead_letters: int | None = None
    """Those that nobody has retried or dropped."""
    consumers: int | None = None
    """Members of the consumers' group."""
    partition_lag: tuple["PartitionLag", ...] = ()
    """Of every partition of notifications."""


class PartitionLag(msgspec.Struct, frozen=True):
    """How far behind the records of one partition are."""

    partition: int
    end_offset: int
    """The offset that the next event will have."""
    next_offset: int
    """The first that is not recorded."""
    lag_events: int
    lag_seconds: float | None
    """Since the oldest of them arrived; 0 when none waits, None when Kafka does not tell."""


async def _log(connection: Connection) -> dict[str, Any]:
    """Whether the log was found not to go on since the registry was last compared as a whole."""
    compared = await reconcile.last_pass(connection, DEFAULT_REGISTRY, state="finished")
    broken = await offsets.broken_after(connection, compared.after_break if compared else 0)
    return {
        "broken_at": None if broken is None else broken.found_at,
        "partitions": 0 if broken is None else broken.partitions,
        "kinds": [] if broken is None else list(broken.kinds),
        "restored_at": await offsets.restored_at(connection),
    }


def _behind(end: int, *, before: int, after: int) -> int:
    """Events that wait, where the ledger stood before and after the log's end was read.

    What arrived and was recorded in between does not wait: only an end before both is behind the ledger.
    """
    return end - after if end >= after else min(0, end - before)


class _Layout(msgspec.Struct, frozen=True):
    read_at: float
    notifications: dict[int, Extent]
    dead_letters: dict[int, Extent]


class Pipeline:
    """Looks when it is asked, so that what it says is true at that moment."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        *,
        clock: Callable[[], datetime],
        complaints: Complaints | None = None,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._connected = AsyncExitStack()
        self._reader: TopicReader | None = None
        self._ask_kafka_after = 0.0
        self._cluster = ""
        self._layout: _Layout | None = None
        self._oldest: tuple[float, dict[int, int]] = (0.0, {})
        self._admin: AIOKafkaAdminClient | None = None
        self._members: tuple[float, int | None] = (0.0, None)
        self._complaints = complaints
        self.receiver = ReceiverWatch(settings)
        self.registry = RegistryWatch(settings)

    async def close(self) -> None:
        """Leave Kafka, the receiver and the registry."""
        await self.receiver.close()
        await self.registry.close()
        await self._leave_kafka()

    async def _leave_kafka(self) -> None:
        self._reader, self._layout, self._admin = None, None, None
        await self._connected.aclose()

    async def status(self) -> dict[str, Any]:
        """`GET /v1/status`."""
        now = self._clock()
        flow, receiver, registry = await asyncio.gather(
            self.flow(), self.receiver.look(), self.registry.look()
        )
        async with self._pool.acquire() as connection:
            document = await reading.status(connection, now=self._clock())
            document["reconciliation"] = await reconcile.status(connection, DEFAULT_REGISTRY)
            document["log"] = await _log(connection)
            document["drift"] = msgspec.to_builtins(
                await verify.kept(connection), builtin_types=(datetime,)
            )
            (
                document["stale_leases_total"],
                document["stale_leases"],
            ) = await health_rows.stale_leases(connection, now=now, limit=_MOST_NAMED)
            document["cleanups"] = {
                "running": await health_rows.running_cleanups(connection),
                "without_owner": await runs.stale_workspaces(
                    connection, now=now, stale_after=_WITHOUT_OWNER
                ),
            }
            stopped = await health_rows.stopped_cleanups(
                connection, since=now - _RECENT, limit=_MOST_NAMED
            )
        errors = self._recent_errors(stopped, now)
        document["recent_errors_total"] = len(errors)
        document["recent_errors"] = errors[:_MOST_NAMED]
        document["receiver"] = msgspec.to_builtins(receiver)
        document["registry"] = msgspec.to_builtins(registry)
        document |= msgspec.to_builtins(flow)
        checks = health.judge(document, now=now)
        return {
            "state": health.worst(checks),
            "as_of": now,
            "checks": [msgspec.structs.asdict(item) for item in checks],
            **document,
        }

    def _recent_errors(self, stopped: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
        """Cleanups that were stopped, and what this process complained of; the newest first."""
        errors = [
            {
                "at": item["finished_at"],
                "level": "warning",
                "what": f"cleanup of {item['workspace']} {item['state']}: {item['message'] or ''}",
                "times": 1,
            }
            for item in stopped
        ]
        if self._complaints is not None:
            errors += [
                msgspec.structs.asdict(item) for item in self._complaints.since(now - _RECENT)
            ]
        return sorted(errors, key=lambda item: item["at"], reverse=True)

    async def flow(self) -> Flow:
        """What waits in Kafka now. What arrived before the call and is in no lag is recorded."""
        async with self._one_at_a_time:
            if time.monotonic() < self._ask_kafka_after:
                return Flow()
            try:
                async with asyncio.timeout(_KAFKA_PATIENCE):
                    return await self._look()
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("kafka_does_not_tell", reason=f"{type(error).__name__}: {error}")
                await self._leave_kafka()
                self._ask_kafka_after = time.monotonic() + _KAFKA_PAUSE
                return Flow()

    async def _look(self) -> Flow:
        reader = self._reader or await self._connect()
        layout = await self._current_layout(reader)
        async with self._pool.acquire() as connection:
            stood = await figures.next_offsets(connection, self._cluster, NOTIFICATIONS_TOPIC)
        ends = await reader.ends(
            TopicPartition(topic, number)
            for topic, extents in (
                (NOTIFICATIONS_TOPIC, layout.notifications),
                (DEAD_LETTER_TOPIC, layout.dead_letters),
            )
            for number in extents
        )
        # Positions after ends: what is recorded meanwhile does not wait any more.
        firsts = {number: extent.first for number, extent in layout.dead_letters.items()}
        async with self._pool.acquire() as connection:
            stands = await figures.next_offsets(connection, self._cluster, NOTIFICATIONS_TOPIC)
            dealt_with = await handled.count(connection, self._cluster, firsts)
        begins = {
            number: max(extent.first, stands.get(number, extent.first))
            for number, extent in layout.notifications.items()
        }
        behind = {
            number: _behind(
                ends[TopicPartition(NOTIFICATIONS_TOPIC, number)],
                before=stood.get(number, begin),
                after=begin,
            )
            for number, begin in begins.items()
        }
        ages = await self._ages(
            reader, {n: begins[n] for n, events in behind.items() if events > 0}
        )
        dead = sum(
            ends[TopicPartition(DEAD_LETTER_TOPIC, number)] - first
            for number, first in firsts.items()
        )
        return Flow(
            kafka_reachable=True,
            lag_events=sum(behind.values()),
            lag_seconds=max(ages.values(), default=0.0),
            dead_letters=max(0, dead - dealt_with),
            consumers=await self._count_members(),
            partition_lag=tuple(
                PartitionLag(
                    number,
                    ends[TopicPartition(NOTIFICATIONS_TOPIC, number)],
                    begins[number],
                    events,
                    ages.get(number) if events else 0.0,
                )
                for number, events in sorted(behind.items())
            ),
        )

    async def _connect(self) -> TopicReader:
        self._connected = AsyncExitStack()
        reader = await self._connected.enter_async_context(
            topic_reader(self._settings, fetch_bytes=1)
        )
        self._cluster = await cluster_id(self._settings)
        admin = AIOKafkaAdminClient(**connection_options(self._settings))
        self._connected.push_async_callback(admin.close)
        await start(admin, self._settings)
        self._admin = admin
        self._reader = reader
        return reader

    async def _current_layout(self, reader: TopicReader) -> _Layout:
        now = time.monotonic()
        if self._layout is None or now - self._layout.read_at > _LAYOUT_FRESH:
            self._layout = _Layout(
                now,
                await reader.extents(NOTIFICATIONS_TOPIC),
                await reader.extents(DEAD_LETTER_TOPIC),
            )
        return self._layout

    async def _count_members(self) -> int | None:
        """Consumers that Kafka hears from; None: it does not tell."""
        asked_at, members = self._members
        now = time.monotonic()
        if self._admin is not None and now - asked_at > _MEMBERS_FRESH:
            try:
                group = await groups.describe(self._admin, self._settings.kafka_group)
                members = None if group is None else group.members
            except KafkaError as error:
                log.warning("group_not_described", reason=f"{type(error).__name__}: {error}")
                members = None
            self._members = (now, members)
        return members

    async def _ages(self, reader: TopicReader, waiting: dict[int, int]) -> dict[int, float]:
        """Partition → seconds since Kafka took the oldest of what waits there."""
        if not waiting:
            self._oldest = (0.0, {})
            return {}
        looked_at, stored = self._oldest
        now = time.monotonic()
        if not stored or now - looked_at > _AGE_FRESH:
            records = await reader.at(NOTIFICATIONS_TOPIC, waiting)
            stored = {number: record.timestamp for number, record in records.items()}
            self._oldest = (now, stored)
        at = self._clock().timestamp()
        return {
            number: max(0.0, at - milliseconds / 1000)
            for number, milliseconds in stored.items()
            if number in waiting
        }
