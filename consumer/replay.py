"""Rebuilds the ledger from the topic and the observations into a second schema.

The same decoding, the same facts, the same Recorder as the consumer's; events of the rebuilt ledger
stay in its own outbox, which nobody publishes.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from consumer.loop import arrival_of, source_of
from consumer.translate import AgentRule, facts_of, no_agent
from ledger import rebuilt
from ledger.facts import Fact
from ledger.record import Recorder
from registry.marks import OwnMarks
from registry.notifications import BadEvent, decode_event
from runtime.postgres import Connection

_POLL_MS = 1000

Progress = Callable[[str, int, int], None]
"""(what is read, done, of how many)"""


class LogIncompleteError(Exception):
    """The topic does not reach back to the ledger's beginning: a rebuilt ledger would lack images."""


class Replayed(msgspec.Struct):
    """What a replay took in."""

    ends: dict[int, int] = {}
    """Partition → first offset that was not taken in."""
    starts: dict[int, int] = {}
    """Partition → first offset that the log still has."""
    events: int = 0
    skipped: int = 0
    """Dead letters: what the consumer did not understand either."""
    observations: int = 0
    last_observation: int = 0
    unsettled: list[tuple[str, str, bytes]] = []
    """(registry, repository, digest) of manifests that count although an event told a delete of their
    digest: a blob's, or theirs. A replay asks no registry."""


class Replay:
    """One replay into a recorder whose connections see the second schema.

    `kafka` is in no group, so that all partitions of its topic are its own.
    """

    def __init__(
        self,
        *,
        kafka: AIOKafkaConsumer,
        recorder: Recorder,
        batch_max_events: int,
        clock: Callable[[], datetime],
        progress: Progress,
        ignored_agents: AgentRule = no_agent,
        pull_through: bool = False,
        own: OwnMarks | None = None,
    ) -> None:
        self._pull_through = pull_through
        self._kafka = kafka
        self._recorder = recorder
        self._batch_max_events = batch_max_events
        self._clock = clock
        self._progress = progress
        self._ignored_agents = ignored_agents
        self._own = own
        self.replayed = Replayed()

    async def take_topic(self, until: dict[int, int] | None = None) -> None:
        """Read every partition from its start to `until`, or to where it ends now.

        What was read already is not read again, so that a second call catches up.
        """
        partitions: list[TopicPartition] = sorted(self._kafka.assignment())
        starts = await self._kafka.beginning_offsets(partitions)
        ends = await self._kafka.end_offsets(partitions)
        goals = {}
        for partition in partitions:
            number = partition.partition
            self.replayed.starts[number] = starts[partition]
            begin = self.replayed.ends.setdefault(number, starts[partition])
            wanted = ends[partition] if until is None else until.get(number, 0)
            goals[partition] = max(begin, min(wanted, ends[partition]))
        total = sum(goals[item] - self.replayed.ends[item.partition] for item in partitions)
        for partition in partitions:
            self._kafka.seek(partition, self.replayed.ends[partition.partition])
        done = 0
        waiting = {item for item in partitions if goals[item] > self.replayed.ends[item.partition]}
        while waiting:
            fetched = await self._kafka.getmany(
                *waiting, timeout_ms=_POLL_MS, max_records=self._batch_max_events
            )
            records = [
                record
                for partition, batch in fetched.items()
                for record in batch
                if record.offset < goals[partition]
            ]
            await self._record([fact for record in records if (fact := self._fact(record))])
            done += len(records)
            self._progress("events", done, total)
            waiting = {item for item in waiting if await self._kafka.position(item) < goals[item]}
        self.replayed.events += done
        self.replayed.ends |= {item.partition: goals[item] for item in partitions}

    async def take_observations(self, live: Connection) -> None:
        """Read the observations that were not read yet."""
        total = await rebuilt.count_observations(live)
        done = self.replayed.observations
        async for observed in rebuilt.observations(
            live, after=self.replayed.last_observation, limit=self._batch_max_events
        ):
            await self._record(observed.facts)
            self.replayed.last_observation = observed.last_id
            self.replayed.observations += len(observed.facts)
            self._progress("observations", self.replayed.observations - done, total - done)

    def forget_observations(self) -> None:
        """Read them all again next time: one with a lower id may have been committed late."""
        self.replayed.observations = self.replayed.last_observation = 0

    def _fact(self, record: ConsumerRecord) -> Fact | None:
        try:
            notification = decode_event(record.value or b"")
            return facts_of(
                source_of(record),
                notification,
                self._ignored_agents,
                pull_through=self._pull_through,
                arrived_ns=arrival_of(record),
                own=self._own,
            )
        except BadEvent:
            self.replayed.skipped += 1
            return None

    async def _record(self, facts: Sequence[Fact]) -> None:
        if not facts:
            return
        try:
            await self._recorder.record(facts, now=self._clock())
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
            if len(facts) == 1:
                self.replayed.skipped += 1
                return
            for fact in facts:
                await self._record([fact])
