"""How the pipeline stands: what waits in Kafka, what waits in Postgres, what the newest recount found."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from ledger import figures, handled, reading, reconcile, verify
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC, cluster_id
from runtime.logs import get_logger
from runtime.postgres import Pool
from runtime.settings import DEFAULT_REGISTRY, Settings
from runtime.topics import Extent, TopicReader, topic_reader

log = get_logger(__name__)

_KAFKA_PATIENCE: Final = 3.0
"""Seconds for Kafka's answers: the status must come while it is away."""
_LAYOUT_FRESH: Final = 10.0
"""Seconds after which partitions and their first offsets are asked for again."""
_AGE_FRESH: Final = 1.0
"""Seconds for which the oldest waiting event is not looked for again."""
_KAFKA_PAUSE: Final = 2.0
"""Seconds for which a Kafka that did not answer is not asked again."""


class Flow(msgspec.Struct, frozen=True):
    """What waits in Kafka; None: Kafka does not tell."""

    kafka_reachable: bool = False
    lag_events: int | None = None
    """Events that are not recorded yet."""
    lag_seconds: float | None = None
    """Since the oldest of them arrived."""
    dead_letters: int | None = None
    """Those that nobody has retried or dropped."""


class _Layout(msgspec.Struct, frozen=True):
    read_at: float
    notifications: dict[int, Extent]
    dead_letters: dict[int, Extent]


class Pipeline:
    """Looks when it is asked, so that what it says is true at that moment."""

    def __init__(self, settings: Settings, pool: Pool, *, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._pool = pool
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._connected = AsyncExitStack()
        self._reader: TopicReader | None = None
        self._ask_kafka_after = 0.0
        self._cluster = ""
        self._layout: _Layout | None = None
        self._oldest: tuple[float, int] = (0.0, 0)

    async def close(self) -> None:
        """Leave Kafka."""
        self._reader, self._layout = None, None
        await self._connected.aclose()

    async def status(self) -> dict[str, Any]:
        """`GET /v1/status`."""
        flow = await self.flow()
        async with self._pool.acquire() as connection:
            document = await reading.status(connection, now=self._clock())
            document["reconciliation"] = await reconcile.status(connection, DEFAULT_REGISTRY)
            document["drift"] = msgspec.to_builtins(
                await verify.kept(connection), builtin_types=(datetime,)
            )
        return {**msgspec.structs.asdict(flow), **document}

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
                await self.close()
                self._ask_kafka_after = time.monotonic() + _KAFKA_PAUSE
                return Flow()

    async def _look(self) -> Flow:
        reader = self._reader or await self._connect()
        layout = await self._current_layout(reader)
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
        waiting: dict[int, int] = {}
        lag = 0
        for number, extent in layout.notifications.items():
            begin = max(extent.first, stands.get(number, extent.first))
            if (behind := ends[TopicPartition(NOTIFICATIONS_TOPIC, number)] - begin) > 0:
                lag += behind
                waiting[number] = begin
        dead = sum(
            ends[TopicPartition(DEAD_LETTER_TOPIC, number)] - first
            for number, first in firsts.items()
        )
        return Flow(
            kafka_reachable=True,
            lag_events=lag,
            lag_seconds=await self._age(reader, waiting),
            dead_letters=max(0, dead - dealt_with),
        )

    async def _connect(self) -> TopicReader:
        self._connected = AsyncExitStack()
        reader = await self._connected.enter_async_context(
            topic_reader(self._settings, fetch_bytes=1)
        )
        self._cluster = await cluster_id(self._settings)
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

    async def _age(self, reader: TopicReader, waiting: dict[int, int]) -> float:
        """Seconds since Kafka took the oldest of what waits."""
        if not waiting:
            self._oldest = (0.0, 0)
            return 0.0
        looked_at, oldest_ms = self._oldest
        now = time.monotonic()
        if not oldest_ms or now - looked_at > _AGE_FRESH:
            stored = await reader.stored_at(NOTIFICATIONS_TOPIC, waiting)
            if not stored:
                return 0.0
            oldest_ms = min(stored)
            self._oldest = (now, oldest_ms)
        return max(0.0, self._clock().timestamp() - oldest_ms / 1000)
