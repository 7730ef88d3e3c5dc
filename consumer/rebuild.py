"""The replay command's composition root: its connections, what it refuses, and its three outcomes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer

from consumer.log_watch import Look, look
from consumer.replay import LogIncompleteError, Progress, Replay, Replayed
from consumer.translate import agents_like
from ledger import figures, offsets, rebuilt
from ledger.ahead import SECOND_NS
from ledger.marks import own_marks
from ledger.rebuilt import BehindError, Change, Difference
from ledger.record import Recorder
from quota.levels import level
from registry.marks import OwnMarks
from registry.workspaces import WorkspaceRule
from runtime.consumers import end_consumer
from runtime.figures import in_utc
from runtime.kafka import NOTIFICATIONS_TOPIC, cluster_id, connection_options
from runtime.postgres import CONNECT_TIMEOUT, Connection, close_pool, open_pool, retry_conflicts
from runtime.settings import MESSAGE_MAX_BYTES, Settings

_ATTEMPTS = 5


class BusyError(Exception):
    """Another replay is running; wait for its end."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class Rebuild:
    """A second ledger, and the live one beside it."""

    def __init__(
        self,
        *,
        live: Connection,
        other: Connection,
        replay: Replay,
        cluster: str,
        look: Look,
        clock: Callable[[], datetime],
    ) -> None:
        self._live = live
        self._other = other
        self._replay = replay
        self._cluster = cluster
        self._look = look
        self._clock = clock

    @property
    def replayed(self) -> Replayed:
        """What was taken in so far."""
        return self._replay.replayed

    async def build(self) -> None:
        """Everything up to where the topic ends now."""
        await rebuilt.prepare(self._live)
        await self._replay.take_topic()
        await self._replay.take_observations(self._live)
        self.replayed.unsettled = await rebuilt.unsettled(self._other)

    async def differences(self) -> AsyncIterator[Difference]:
        """Rebuild up to where the live ledger stands and compare; exact while consumers go on."""
        await rebuilt.prepare(self._live)
        async with self._live.transaction(isolation="repeatable_read", readonly=True):
            stands = await figures.next_offsets(self._live, self._cluster, NOTIFICATIONS_TOPIC)
            await self._replay.take_topic(stands)
            await self._replay.take_observations(self._live)
            self.replayed.unsettled = await rebuilt.unsettled(self._other)
            async with self._other.transaction(isolation="repeatable_read", readonly=True):
                async for difference in rebuilt.differences(self._live, self._other):
                    yield difference

    async def swap(self, *, losing: int = 0, tell: Callable[[Change], None]) -> int:
        """Put a newly rebuilt ledger in the live one's place; how many workspaces' bytes changed.

        What changes is told before. `losing`: so many images of the live ledger may be missing in it.
        Raises LogIncompleteError when the log does not hold all that the ledger was made from, and
        LosesImagesError.
        """
        if missing := await self._missing():
            raise LogIncompleteError(
                f"the log does not hold all that the ledger was made from ({'; '.join(missing)}), so a "
                "rebuilt ledger would lack images; look with --diff, and let `registry-quota reconcile` "
                "mend what differs"
            )
        await self.build()
        put = partial(self._put_in_place, losing, tell)
        for _ in range(_ATTEMPTS - 1):
            try:
                return await retry_conflicts(put)
            except BehindError:
                self._replay.forget_observations()
                await self._replay.take_observations(self._live)
        return await retry_conflicts(put)

    async def _missing(self) -> list[str]:
        """What the ledger was made from and the log has no more, in words."""
        here = (self._live, self._cluster, NOTIFICATIONS_TOPIC)
        stands = await offsets.positions(*here)
        looked = await self._look(stands)
        missing = [
            f"partition {number} begins at offset {extent.first}"
            for number, extent in sorted(looked.extents.items())
            if extent.first > 0
        ]
        missing += [
            f"partition {number} is gone"
            for number in sorted(stands.keys() - looked.extents.keys())
        ]
        missing += [
            f"partition {item.partition} ends at offset {item.end_offset}, and {item.stored_offset} were read"
            if item.kind == "ends_before"
            else f"partition {item.partition} has other records than were read"
            for item in looked.breaks(stands)
            if item.kind != "begins_after"
        ]
        if await rebuilt.fed_from_elsewhere(*here):
            missing.append("the ledger has read another Kafka cluster as well")
        elif broken := await offsets.broken_after(self._live, 0, database_too=False):
            missing.append(
                f"on {in_utc(broken.found_at)} UTC it was found to be another than was read before"
            )
        return missing

    async def _put_in_place(self, losing: int, tell: Callable[[Change], None]) -> int:
        async with self._live.transaction():
            return await rebuilt.put_in_place(
                self._live,
                cluster_id=self._cluster,
                topic=NOTIFICATIONS_TOPIC,
                ends=self.replayed.ends,
                observations_taken=self.replayed.observations,
                losing=losing,
                tell=tell,
                level_of=level,
                now=self._clock(),
                new_id=uuid4,
            )


@asynccontextmanager
async def rebuilding(
    settings: Settings, *, clock: Callable[[], datetime], progress: Progress
) -> AsyncIterator[Rebuild]:
    """Connections for one replay; the second schema is gone afterwards. Raises BusyError."""
    url = settings.required_database_url()
    options = {"application_name": "registry-quota replay", "lock_timeout": "30s"}
    live = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, server_settings=options)
    try:
        if not await rebuilt.try_lead(live):
            raise BusyError
        other = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, server_settings=options)
        pool = await open_pool(rebuilt.schema_url(url), size=2, name="registry-quota replay")
        kafka = AIOKafkaConsumer(
            NOTIFICATIONS_TOPIC,
            **connection_options(settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MESSAGE_MAX_BYTES,
        )
        try:
            await kafka.start()
            replay = Replay(
                kafka=kafka,
                recorder=Recorder(
                    pool,
                    rule=WorkspaceRule(settings.workspace_pattern),
                    default_quota_bytes=settings.default_quota_bytes,
                    level_of=level,
                    clock_skew_ns=settings.clock_skew * SECOND_NS,
                ),
                batch_max_events=settings.batch_max_events,
                clock=clock,
                progress=progress,
                ignored_agents=agents_like(settings.ignored_pull_agents),
                pull_through=bool(settings.registry_pull_through),
                own=OwnMarks(*await own_marks(live)),
            )
            rebuild = Rebuild(
                live=live,
                other=other,
                replay=replay,
                cluster=await cluster_id(settings),
                look=partial(look, settings),
                clock=clock,
            )
            yield rebuild
        finally:
            await end_consumer(kafka)
            await close_pool(pool)
            await other.close()
            await rebuilt.drop(live)
    finally:
        await live.close()
