"""The loop: a quota event is delivered, then its offset moves; what cannot be is dead-lettered.

At least once, in order per workspace. The same id is not delivered twice: on taking a partition over
the ids before its offset are read again, so that a restart forgets none of the recent ones. What a
crash between delivery and commit repeats carries the same id for the other side to know it by.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime

import msgspec
from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from alerts.render import BadEventError, Delivery, Event, Render, read_event, repeated
from alerts.send import NotDeliveredError
from alerts.standing import Standing
from runtime.consumers import GroupMember
from runtime.kafka import ALERTS_DEAD_LETTER_TOPIC, QUOTA_EVENTS_TOPIC
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.producers import DURABLE_SECONDS

log = get_logger(__name__)

_POLL_MS = 500
_FIRST = TopicPartition(QUOTA_EVENTS_TOPIC, 0)
_READ_AGAIN = 1000
"""Records before a partition's offset whose ids are learned again."""
_REMEMBERED = 100_000


class TooManyDeadLettersError(Exception):
    """One event after another could not be delivered: mend the other side, then start again."""


class Policy(msgspec.Struct, frozen=True):
    """What is forwarded, and how hard it is tried. Seconds."""

    wanted: Callable[[Event], bool]
    attempts: int = 12
    """Tries for one event before it is dead-lettered."""
    first_wait: float = 0.5
    longest_wait: float = 60.0
    most_dead_in_a_row: int = 10
    repeat_every: float = 3600.0
    """After so long, levels that stand are told again to whom forgets them (`render.LEVEL_STAYS`)."""
    base: str | None = None
    """The API's address, to which what is repeated leads."""
    from_start: bool = False
    """Where a group begins that has never run: at the start of the topic, or with what comes."""


class Forwarder:
    """Forwards until it is asked to stop; one per process."""

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer,
        render: Render,
        send: Callable[[Delivery], Awaitable[None]],
        policy: Policy,
        stopping: Stopping,
        clock: Callable[[], datetime],
        jitter: Callable[[], float],
        standing: Standing | None = None,
    ) -> None:
        """`jitter` gives a factor from 0.5 to 1 for each wait; `standing`: what is to be repeated."""
        self._consumer = consumer
        self._producer = producer
        self._render = render
        self._send = send
        self._policy = policy
        self._stopping = stopping
        self._clock = clock
        self._jitter = jitter
        self._known: OrderedDict[str, None] = OrderedDict()
        self._done_until: dict[TopicPartition, int] = {}
        self._dead_in_a_row = 0
        self._standing = standing
        self._repeat_at: float | None = None
        """By the loop's clock."""
        self._begun = False

    async def run(self) -> None:
        """Raises TooManyDeadLettersError; the event that it stopped at is not passed over."""
        member = GroupMember(self._consumer, assigned=self.assigned, revoked=self.revoked)
        member.subscribe(QUOTA_EVENTS_TOPIC)
        while not self._stopping.is_set():
            await self._repeat()
            fetched = await member.poll(timeout_ms=_POLL_MS, max_records=500)
            for partition, records in fetched.items():
                for record in records:
                    if self._stopping.is_set() or not await self._take(partition, record):
                        break

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Go to where the group stands, less the records whose ids are to be known."""
        if not partitions:
            return
        starts = await self._consumer.beginning_offsets(list(partitions))
        ends = await self._consumer.end_offsets(list(partitions))
        for partition in partitions:
            done = await self._consumer.committed(partition)
            if done is None:
                done = starts[partition] if self._policy.from_start else ends[partition]
                # From here on nothing is passed over, whenever this process dies.
                await self._consumer.commit({partition: done})
            self._done_until[partition] = done
            self._consumer.seek(partition, max(starts[partition], done - _READ_AGAIN))

    async def _repeat(self) -> None:
        """Tell what stands once more when it is time; of a group, whoever has the first partition does."""
        now = asyncio.get_running_loop().time()
        if self._standing is None or _FIRST not in self._done_until:
            return
        if self._repeat_at is not None and now < self._repeat_at:
            return
        try:
            if not self._begun:
                await self._standing.begin(await self._positions())
                self._begun = True
            events = [e for e in await self._standing.events() if self._policy.wanted(e)]
            for delivery in repeated(events, self._clock(), base=self._policy.base):
                await self._send(delivery)
        except (NotDeliveredError, KafkaError, TimeoutError) as error:
            log.warning("standing_levels_not_told", reason=str(error) or type(error).__name__)
            self._repeat_at = now + self._policy.longest_wait
        else:
            self._repeat_at = now + self._policy.repeat_every
            log.info("standing_levels_told", workspaces=len(events))

    async def _positions(self) -> dict[int, int]:
        """Partition → where the group stands, also in partitions of its other processes."""
        numbers = self._consumer.partitions_for_topic(QUOTA_EVENTS_TOPIC) or set()
        found = {
            number: await self._consumer.committed(TopicPartition(QUOTA_EVENTS_TOPIC, number))
            for number in numbers
        }
        return {number: offset for number, offset in found.items() if offset is not None}

    def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Somebody else's from now on."""
        for partition in partitions:
            self._done_until.pop(partition, None)

    async def _take(self, partition: TopicPartition, record: ConsumerRecord) -> bool:
        """Deal with one record; False when the partition is not ours any more, or we are to stop."""
        done_until = self._done_until.get(partition)
        if done_until is None:
            return False
        try:
            event = read_event(record.value)
        except BadEventError as error:
            if record.offset >= done_until:
                await self._bury(record, str(error))
                return await self._move(partition, record)
            return True
        if record.offset < done_until:
            self._remember(event.id)
            return True
        if event.id not in self._known and self._policy.wanted(event):
            if not await self._deliver(record, event):
                return False
            self._remember(event.id)
        return await self._move(partition, record)

    async def _deliver(self, record: ConsumerRecord, event: Event) -> bool:
        """Try until it is delivered or dead-lettered; False when asked to stop meanwhile."""
        policy = self._policy
        for attempt in range(1, policy.attempts + 1):
            try:
                await self._send(self._render(event, record.value, self._clock()))
            except NotDeliveredError as error:
                reason = f"{error}, {attempt} {'try' if attempt == 1 else 'tries'}"
                log.warning("not_delivered", id=event.id, type=event.type, reason=reason)
                if error.refused or attempt == policy.attempts:
                    break
                wait = min(policy.first_wait * 2 ** (attempt - 1), policy.longest_wait)
                if await self._stopping.sleep(error.retry_after or wait * self._jitter()):
                    return False
            else:
                self._dead_in_a_row = 0
                if self._standing is not None:
                    await self._standing.note(event, record.value)
                log.info("delivered", id=event.id, type=event.type, workspace=event.subject)
                return True
        self._dead_in_a_row += 1
        if self._dead_in_a_row > policy.most_dead_in_a_row:
            raise TooManyDeadLettersError(
                f"{policy.most_dead_in_a_row} events in a row could not be delivered ({reason}): "
                "mend the other side, then start again; it goes on where it stopped"
            )
        await self._bury(record, reason)
        return True

    async def _bury(self, record: ConsumerRecord, reason: str) -> None:
        log.warning("dead_letter", offset=record.offset, partition=record.partition, reason=reason)
        async with asyncio.timeout(DURABLE_SECONDS):
            await self._producer.send_and_wait(
                ALERTS_DEAD_LETTER_TOPIC,
                value=record.value,
                key=record.key,
                headers=[
                    ("reason", reason.encode()[:2000]),
                    ("origin", f"{record.topic}/{record.partition}/{record.offset}".encode()),
                    ("first-seen", self._clock().isoformat().encode()),
                ],
            )

    async def _move(self, partition: TopicPartition, record: ConsumerRecord) -> bool:
        try:
            await self._consumer.commit({partition: record.offset + 1})
        except (CommitFailedError, IllegalStateError):
            log.info("partition_lost", partition=partition.partition)
            return False
        if partition in self._done_until:
            self._done_until[partition] = record.offset + 1
        return True

    def _remember(self, event_id: str) -> None:
        self._known[event_id] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
