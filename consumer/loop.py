"""The loop: poll, translate, one Postgres transaction per batch, then the group's offsets.

Offsets live in Postgres beside the effects, so that a crash between any two lines repeats nothing
and loses nothing. The group's own offsets in Kafka are only for people and lag tools.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar
from uuid import uuid4

import asyncpg
import msgspec
from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import KafkaError

from consumer.continuity import mark_of
from consumer.dead_letters import (
    Ceiling,
    Sent,
    TooManyDeadLettersError,
    all_durable,
    send_dead_letter,
)
from consumer.group import GroupOffsets
from consumer.log_watch import (
    EVERY_SECONDS,
    LogBrokenError,
    Look,
    Looked,
    UnreadPartitionsError,
)
from consumer.metrics import ConsumerMetrics
from consumer.outcomes import MOST_LINES, Decoded, about, line, summary
from consumer.traces import tracing_batch
from consumer.translate import AgentRule, facts_of, no_agent
from consumer.waiting import Batch, Waiting
from ledger import offsets
from ledger.offsets import Advance, LogBreak, Mark, Position, StaleOwnerError
from ledger.outbox import NewId
from ledger.record import Recorded, Recorder
from registry.marks import OwnMarks
from registry.notifications import BadEvent, decode_event
from registry.timestamps import InvalidTimestamp, parse_timestamp
from runtime.consumers import ClientEndedError, GroupMember, end_consumer
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.lifecycle import Stopping, end
from runtime.logs import Outcomes, get_logger
from runtime.postgres import NO_ROOM, UNAVAILABLE, Connection, Pool
from runtime.settings import DEFAULT_REGISTRY, MESSAGE_MAX_BYTES
from runtime.tracing import Tracing, part

log = get_logger(__name__)

POLL_MS = 200
LANES = 2
"""Batches under way at once: one is in the database while the next is decoded and counted. More would
only wait for this process's one core."""
_LONGEST_WAIT = 5.0
"""Seconds between two attempts while the database is away."""
_FETCH_AGAIN = 1.0
"""Seconds until another client of Kafka takes the place of one that has ended in part."""
_LOOK_AGAIN = 1.0
"""Seconds between two looks at the log, however odd it is."""

T = TypeVar("T")


class Ownership(msgspec.Struct):
    """A partition of ours: the epoch we hold and where we stand."""

    epoch: int
    next_offset: int
    head: Mark | None = None
    """The last record that was recorded."""
    anchor: Mark | None = None
    """One that a look at the log has confirmed since."""
    asked_again: int = -1
    """The offset that was fetched again because the log seemed to skip it."""

    @property
    def position(self) -> Position:
        """As it is compared with the log."""
        return Position(self.epoch, self.next_offset, self.head, self.anchor)


class Connect(Protocol):
    """Makes a client of Kafka."""

    def __call__(self, *, nameless: bool) -> AIOKafkaConsumer:
        """`nameless`: without a name of its own in the group, which has to share out anew."""


class NotificationConsumer:
    """Takes `registry.notifications` into the ledger until it is asked to stop."""

    def __init__(
        self,
        *,
        connect: Connect,
        producer: AIOKafkaProducer,
        pool: Pool,
        recorder: Recorder,
        metrics: ConsumerMetrics,
        stopping: Stopping,
        cluster_id: str,
        owner: str,
        batch_max_events: int,
        dead_letter_ceiling: int = 0,
        clock: Callable[[], datetime],
        on_pending: Callable[[], None],
        look: Look,
        new_id: NewId = uuid4,
        ignored_agents: AgentRule = no_agent,
        tracing: Tracing | None = None,
        pull_through: bool = False,
        own: OwnMarks | None = None,
    ) -> None:
        self._pull_through = pull_through
        self._connect = connect
        self._producer = producer
        self._pool = pool
        self._recorder = recorder
        self._metrics = metrics
        self._stopping = stopping
        self._cluster_id = cluster_id
        self._owner = owner
        self._batch_max_events = batch_max_events
        self._clock = clock
        self._on_pending = on_pending
        self._look = look
        self._new_id = new_id
        self._doubt = asyncio.Event()
        """Set when the log may not be the one that was being read."""
        self._nameless = False
        self._skipped: list[LogBreak] = []
        """What the log did not hold any more when it was to be read, and is to be told."""
        self._ignored_agents = ignored_agents
        self._own = own
        self._tracing = tracing
        self._owned: dict[int, Ownership] = {}
        self._waiting = Waiting(MESSAGE_MAX_BYTES)
        self._group = GroupOffsets()
        self._ceiling = Ceiling(dead_letter_ceiling)
        self._outcomes = Outcomes("notification")
        self.ready = False
        """Whether the group has given it its share: none, where there are more members than partitions."""
        self.unread: frozenset[int] = frozenset()
        """Partitions that nobody in the group reads, when it last looked."""
        self.no_room = False
        """Whether it waits because the database has no room: that is no stall."""
        self.halted: str | None = None
        """Why it takes nothing any more, until a person starts it again."""

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that are its own now."""
        return frozenset(self._owned)

    async def run(self) -> None:
        """Consume; a stale owner rejoins the group, and so does who fetches nothing any more.

        When too many events fail it leaves the group and waits for its end, rather than ending:
        whoever restarts processes would otherwise have the whole topic dead-lettered piece by piece.
        """
        while not self._stopping.is_set():
            kafka = self._connect(nameless=self._nameless)
            member = GroupMember(
                kafka, assigned=partial(self.assigned, kafka), revoked=self.revoked
            )
            try:
                await kafka.start()
                member.subscribe(NOTIFICATIONS_TOPIC)
                await self._consume(kafka, member)
            except StaleOwnerError as error:
                log.warning("partition_lost", reason=str(error), action="rejoining the group")
            except UnreadPartitionsError as error:
                self._nameless = True
                log.warning("partitions_unread", reason=str(error), action="rejoining the group")
            except LogBrokenError as error:
                log.warning("log_broken", reason=str(error), action="taking it over anew")
            except ClientEndedError as error:
                log.warning("partition_lost", reason=str(error), action="rejoining the group")
                # Were it to happen again at once, the whole group would rebalance again and again.
                await self._stopping.sleep(_FETCH_AGAIN)
            except TooManyDeadLettersError as error:
                self.halted = str(error)
            finally:
                self.ready = False
                self.unread = frozenset()
                self._owned.clear()
                self._waiting.clear()
                self._metrics.oldest_ms.clear()
                await end_consumer(kafka)
                await self._group.forget()
            if self.halted:
                self._metrics.halted.set(1)
                log.error(
                    "consumer_halted",
                    reason=self.halted,
                    action="look at `registry-quota dead-letters list`, then start a consumer that can "
                    "read these events; it goes on where this one stopped",
                )
                await self._stopping.wait()

    async def _consume(self, kafka: AIOKafkaConsumer, member: GroupMember) -> None:
        """Run fetching and all lanes; raises what the first of them raised, and ends the others.

        A lane takes what waits and is with no other: its batch is decoded and counted while the other's is
        in the database.
        """
        lanes = {asyncio.create_task(self._lane(kafka, number)) for number in range(LANES)}
        beside = (
            self._fetch(kafka, member),
            self._group.keep_near(kafka, self._stopping),
            self._watch_log(),
        )
        tasks = lanes | {asyncio.create_task(part) for part in beside}
        running = tasks
        try:
            # Until the lanes have ended, as they do when asked to. Fetching may stand in a rebalance
            # then, which lasts as long as the slowest member: nobody waits for it.
            while running & lanes:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()  # raises, also when Kafka's client was cancelled from within
        finally:
            await end(tasks)  # a batch of them is rolled back
        # One may have been under way since before the last batch.
        if await self._group.move(kafka):
            await self._group.move(kafka)

    async def _fetch(self, kafka: AIOKafkaConsumer, member: GroupMember) -> None:
        """Take what comes from the broker."""
        while not self._stopping.is_set():
            self._report_lag(kafka)
            if self._waiting.full:
                await self._waiting.change(POLL_MS / 1000)
                continue
            fetched = await member.poll(timeout_ms=POLL_MS, max_records=self._batch_max_events)
            for partition, records in fetched.items():
                # What is not taken over yet is fetched again: taking over goes to the right offset.
                if partition.partition in self._owned:
                    self._waiting.add(partition, records)

    async def _lane(self, kafka: AIOKafkaConsumer, number: int) -> None:
        while not self._stopping.is_set():
            taken = self._waiting.take(self._batch_max_events)
            if not taken:
                await self._waiting.change(POLL_MS / 1000)
                continue
            try:
                batch = self._in_order(kafka, taken)
                if batch:
                    await self._take(batch, number)
            finally:
                self._waiting.done(taken)

    def _in_order(self, kafka: AIOKafkaConsumer, fetched: Batch) -> Batch:
        """What follows where the ledger stands: nothing twice, nothing left out.

        A record may have been fetched from the group's own offset before a new assignment went to
        the ledger's: such a batch is behind or ahead of it.
        """
        batch: Batch = {}
        for partition, records in fetched.items():
            owned = self._owned.get(partition.partition)
            if owned is None:
                continue  # not taken over yet; taking over goes to the right offset
            first = records[0].offset
            if first > owned.next_offset != owned.asked_again:
                owned.asked_again = owned.next_offset
                self._waiting.drop(partition)
                kafka.seek(partition, owned.next_offset)
                continue
            if first > owned.next_offset:  # still: the log itself no longer has it
                end = kafka.highwater(partition) or first
                number, stood = partition.partition, owned.next_offset
                self._skipped.append(LogBreak(number, "skips", stood, first, end, first))
            if first > owned.next_offset or first < owned.next_offset:
                self._doubt.set()
            fresh = [record for record in records if record.offset >= owned.next_offset]
            if fresh:
                batch[partition] = fresh
        return batch

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """Partitions that are taken away; a batch of them under way is refused by its epoch."""
        self.ready = False
        for partition in partitions:
            self._owned.pop(partition.partition, None)
            self._waiting.drop(partition)
            self._group.reached.pop(partition, None)

    async def assigned(self, kafka: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        """Become the owner of newly assigned partitions and go to where the ledger stands.

        Where the log is not the one that the ledger has read, to what of it is not recorded yet.
        """
        starts = await kafka.beginning_offsets(partitions) if partitions else {}
        taken: dict[TopicPartition, Position] = {}
        for partition in sorted(partitions):
            position = await self._while_database_is_away(
                partial(self._take_partition, partition, starts[partition])
            )
            if position is None:
                return
            taken[partition] = position
        breaks = await self._breaks({item.partition: where for item, where in taken.items()})
        if breaks and not await self._while_database_is_away(partial(self._mend, breaks, taken)):
            return
        resumed = {item.partition: item.resumed_offset for item in breaks if _moves(item)}
        for partition, position in taken.items():
            start = resumed.get(partition.partition)
            self._owned[partition.partition] = (
                Ownership(position.epoch, position.next_offset, position.head, position.anchor)
                if start is None
                else Ownership(position.epoch, start)
            )
            # What its last owner recorded may be more than it told the group.
            self._group.reached[partition] = position.next_offset if start is None else start
            kafka.seek(partition, self._group.reached[partition])
        self.ready = True
        if partitions:
            log.info("partitions_assigned", partitions=[item.partition for item in partitions])

    async def _take_partition(self, partition: TopicPartition, first: int) -> Position:
        async with self._pool.acquire() as connection, connection.transaction():
            return await offsets.take_partition(
                connection,
                cluster_id=self._cluster_id,
                topic=partition.topic,
                partition=partition.partition,
                first_offset=first,
                owner=self._owner,
            )

    async def _breaks(self, positions: Mapping[int, Position]) -> list[LogBreak]:
        """Where the log does not go on, or had been read further than the database knows.

        Nothing where Kafka does not tell: it is looked at again soon.
        """
        if not positions:
            return []
        try:
            looked = await self._look(positions)
            return looked.breaks(positions) + looked.older(positions)
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("log_not_compared", reason=f"{type(error).__name__}: {error}")
            self._doubt.set()
            return []

    async def _mend(
        self, breaks: Sequence[LogBreak], taken: Mapping[TopicPartition, Position]
    ) -> bool:
        """Go on from what is right, and say so."""
        epochs = {item.partition: position.epoch for item, position in taken.items()}
        async with self._pool.acquire() as connection, connection.transaction():
            for item in filter(_moves, breaks):
                await offsets.reset(
                    connection,
                    cluster_id=self._cluster_id,
                    topic=NOTIFICATIONS_TOPIC,
                    partition=item.partition,
                    epoch=epochs[item.partition],
                    offset=item.resumed_offset,
                )
            await self._keep_breaks(connection, breaks)
        self._tell_breaks(breaks)
        return True

    def _tell_breaks(self, breaks: Sequence[LogBreak]) -> None:
        """Once they are kept: the transaction may have to be tried again."""
        for item in breaks:
            self._metrics.log_breaks.labels(item.kind).inc()
            log.error(
                "log_does_not_go_on",
                **msgspec.structs.asdict(item),
                action="what the ledger has not seen is read; a reconciliation is started for the rest"
                if _moves(item)
                else "what was read since the backup is read again; nothing is deleted until a person says"
                " `registry-quota reconcile --confirm-restored`",
            )

    async def _keep_breaks(self, connection: Connection, breaks: Sequence[LogBreak]) -> None:
        await offsets.keep_breaks(
            connection,
            cluster_id=self._cluster_id,
            topic=NOTIFICATIONS_TOPIC,
            breaks=breaks,
            now=self._clock(),
            new_id=self._new_id,
        )

    async def _watch_log(self) -> None:
        """Now and then, and when something is odd: is it still the log that we read?

        Raises LogBrokenError: then the partitions are taken over anew, which goes to the right place; and
        UnreadPartitionsError where nobody reads a part of it. A member that comes back under its own name
        has its share back without anybody counting the partitions again, and no leader looks after that.
        """
        while not await self._stopping.sleep(_LOOK_AGAIN):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._doubt.wait()
            self._doubt.clear()
            owned = {number: item.position for number, item in self._owned.items()}
            try:
                looked = await self._look(owned)
            except (KafkaError, OSError, TimeoutError) as error:
                log.info("log_not_compared", reason=f"{type(error).__name__}: {error}")
                continue
            if breaks := looked.breaks(owned):
                raise LogBrokenError(
                    ", ".join(f"partition {item.partition} {item.kind}" for item in breaks)
                )
            still, self.unread = self.unread & looked.unread, looked.unread
            if still:
                raise UnreadPartitionsError(f"nobody reads the partitions {sorted(still)}")
            await self._while_database_is_away(partial(self._keep_look, owned, looked))
            await self._while_database_is_away(self._require_same_database)

    async def _require_same_database(self) -> bool:
        """Raises LogBrokenError where Postgres stands behind what this process has recorded there."""
        recorded = {number: (item.epoch, item.next_offset) for number, item in self._owned.items()}
        async with self._pool.acquire() as connection:
            stands = await offsets.positions(connection, self._cluster_id, NOTIFICATIONS_TOPIC)
        for number, known in recorded.items():
            stand = stands.get(number)
            if stand is None or (stand.epoch, stand.next_offset) < known:
                raise LogBrokenError(
                    f"the database is older than what was read: partition {number}"
                )
        return True

    async def _keep_look(self, owned: Mapping[int, Position], looked: Looked) -> bool:
        """What was confirmed is compared again the next time, also by another owner."""
        anchors = {
            number: (position.epoch, position.head)
            for number, position in owned.items()
            if position.head is not None
            and position.head != position.anchor
            and looked.confirmed(number, position.head)
        }
        skipped = list(self._skipped)
        if not anchors and not skipped:
            return True
        async with self._pool.acquire() as connection, connection.transaction():
            await offsets.keep_anchors(
                connection,
                cluster_id=self._cluster_id,
                topic=NOTIFICATIONS_TOPIC,
                anchors=anchors,
            )
            if skipped:
                await self._keep_breaks(connection, skipped)
        del self._skipped[: len(skipped)]
        self._tell_breaks(skipped)
        for number, (epoch, mark) in anchors.items():
            mine = self._owned.get(number)
            if mine is not None and mine.epoch == epoch:
                mine.anchor = mark
        return True

    async def _take(self, batch: Batch, lane: int) -> None:
        """Record a batch in one transaction."""
        started = asyncio.get_running_loop().time()
        owners = {item.partition: self._owned.get(item.partition) for item in batch}
        oldest_ms = min(records[0].timestamp for records in batch.values())
        self._metrics.oldest_ms[lane] = oldest_ms
        decoded, too_many = await self._decode_all(batch)
        if not decoded and too_many is not None:
            raise too_many
        try:
            with tracing_batch(self._tracing, decoded):
                taken = await self._while_database_is_away(lambda: self._record(decoded))
        except StaleOwnerError:
            if all(self._owned.get(partition) is owner for partition, owner in owners.items()):
                raise
            # A rebalance took them away; what came back is fetched anew.
            self._metrics.oldest_ms.pop(lane, None)
            return
        if taken is None:
            return  # asked to stop meanwhile; the offsets have not moved
        self._metrics.oldest_ms.pop(lane, None)
        self._metrics.batch_events.observe(len(decoded))
        self._metrics.batch_seconds.observe(asyncio.get_running_loop().time() - started)
        self._metrics.delay_seconds.observe(max(0.0, self._clock().timestamp() - oldest_ms / 1000))
        self._tell(decoded)
        if any(getattr(item.fact, "content", True) is None for item in decoded):
            self._on_pending()
        for item in decoded:
            partition = TopicPartition(item.record.topic, item.record.partition)
            if partition.partition in self._owned:
                self._group.reached[partition] = item.record.offset + 1
        if too_many is not None:
            raise too_many

    async def _decode_all(
        self, batch: Batch
    ) -> tuple[list[Decoded], TooManyDeadLettersError | None]:
        """The records of a batch, up to the first that may not become a dead letter any more.

        Those that became one are durable in that topic.
        """
        decoded: list[Decoded] = []
        letters: list[Sent] = []
        too_many: TooManyDeadLettersError | None = None
        try:
            for records in batch.values():
                for record in records:
                    decoded.append(await self._decode(record, letters))  # noqa: PERF401 - kept when it raises
        except TooManyDeadLettersError as error:
            too_many = error
        await all_durable(letters)
        return decoded, too_many

    async def _decode(self, record: ConsumerRecord, letters: list[Sent]) -> Decoded:
        try:
            notification = decode_event(record.value or b"")
            fact = facts_of(
                source_of(record),
                notification,
                self._ignored_agents,
                pull_through=self._pull_through,
                arrived_ns=arrival_of(record),
                own=self._own,
            )
        except BadEvent as error:
            letters.append(await self._bury(record, str(error), "malformed"))
            return Decoded(record, None, refused=True)
        if self._ceiling.used:
            self._ceiling.give_back()
        return Decoded(record, fact, notification)

    async def _bury(
        self, record: ConsumerRecord, reason: str, kind: str, item: Decoded | None = None
    ) -> Sent:
        self._ceiling.spend()
        log.warning(
            "dead_letter",
            kind=kind,
            reason=reason,
            **(about(record) if item is None else line(item)),
        )
        letter = await send_dead_letter(self._producer, record, reason, self._clock())
        self._metrics.dead_letters.labels(kind).inc()
        return letter

    def _tell(self, decoded: list[Decoded]) -> None:
        """Count the outcomes, and log those that changed an image."""
        self._metrics.counted(Counter((item.action, item.result) for item in decoded))
        telling = [item for item in decoded if item.telling]
        if len(telling) > MOST_LINES and not self._outcomes.wants(logging.DEBUG):
            # A line for each costs as much as recording it: the dead letters have theirs already.
            log.info("notifications", **summary(decoded))
        else:
            self._outcomes.write([line(item) for item in telling])
        if self._outcomes.wants(logging.DEBUG):
            rest = [item for item in decoded if item.notification and not item.telling]
            self._outcomes.write([line(item) for item in rest], level="debug")

    async def _record(self, decoded: list[Decoded]) -> bool:
        """One transaction for all; if the data itself is refused, one for each to find the culprit."""
        try:
            await self._transaction(decoded)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if len(decoded) == 1:
                why = f"the ledger refused it: {error}"
                await all_durable([await self._bury(decoded[0].record, why, "refused", decoded[0])])
                decoded[0].fact, decoded[0].refused = None, True
                await self._transaction(decoded)
                return True
            log.warning("batch_refused", reason=str(error), action="recording one by one")
            for item in decoded:
                await self._record([item])
        return True

    async def _transaction(self, decoded: list[Decoded]) -> None:
        last = {item.record.partition: item.record for item in decoded}
        advances = [
            Advance(
                partition,
                self._owned[partition].epoch,
                self._owned[partition].next_offset,
                mark_of(record),
            )
            for partition, record in last.items()
            if partition in self._owned
        ]
        if len(advances) != len(last):
            raise StaleOwnerError("a batch of a partition that was taken away")

        async def move_offsets(connection: Connection, _recorded: Recorded) -> None:
            await offsets.advance(
                connection,
                cluster_id=self._cluster_id,
                topic=NOTIFICATIONS_TOPIC,
                advances=advances,
            )

        facts = [item.fact for item in decoded if item.fact is not None]
        with part("record in the ledger", attributes={"registry_quota.facts": len(facts)}):
            await self._recorder.record(facts, now=self._clock(), within=move_offsets)
        for advance in advances:
            # It may have been taken away, or given back with a new epoch, while we committed.
            owned = self._owned.get(advance.partition)
            if owned is not None and owned.epoch == advance.epoch:
                owned.next_offset, owned.head = advance.next_offset, advance.head

    async def _while_database_is_away(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Try until the database answers; None when the process is asked to stop meanwhile.

        A commit whose answer was lost is tried again, too: if it had succeeded, the offset
        comparison refuses the repetition, and the stale owner reads its true position again.
        """
        wait = 0.05
        while True:
            try:
                return await work()
            except UNAVAILABLE as error:
                self.no_room = isinstance(error, NO_ROOM)
                log.warning(
                    "database_away", reason=f"{type(error).__name__}: {error}", retry_in=wait
                )
                self._metrics.database_waits.inc()
                stop = await self._stopping.sleep(wait)
                self.no_room = False
                if stop:
                    return None
                wait = min(wait * 2, _LONGEST_WAIT)

    def _report_lag(self, kafka: AIOKafkaConsumer) -> None:
        lag = 0
        for partition in kafka.assignment():
            end = kafka.highwater(partition)
            owned = self._owned.get(partition.partition)
            if end is not None and owned is not None:
                lag += end - owned.next_offset
                if end < owned.next_offset:
                    self._doubt.set()
        self._metrics.lag.set(lag)


def arrival_of(record: ConsumerRecord) -> int:
    """When a notification arrived, in nanoseconds: the receiver's clock, else Kafka's."""
    for name, value in record.headers or ():
        if name == "received-at":
            try:
                return parse_timestamp(bytes(value).decode("ascii", "replace"))
            except InvalidTimestamp:
                break
    return int(record.timestamp) * 1_000_000


def source_of(record: ConsumerRecord) -> str:
    """The id of the registry that sent a notification, from the record's header."""
    for name, value in record.headers or ():
        if name == "source":
            return bytes(value).decode(errors="replace") or DEFAULT_REGISTRY
    return DEFAULT_REGISTRY


def _moves(item: LogBreak) -> bool:
    """Whether reading goes on elsewhere: a database that is older stands where it has to."""
    return item.kind != offsets.OLDER_DATABASE
