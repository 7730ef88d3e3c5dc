"""Where dead letters are read, sent again and marked: Kafka for the letters, Postgres for the marks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import KafkaError

from cli.console import CommandError
from cli.dead_letters.letters import DeadLetter, StillBadError, dead_letter, messages_for
from cli.verify import database
from ledger import handled
from ledger.handled import Handled, Outcome, Place
from registry.workspaces import WorkspaceRule
from runtime.errors import text_of
from runtime.kafka import DEAD_LETTER_TOPIC, cluster_id
from runtime.producers import discard_producer, open_producer
from runtime.settings import Settings
from runtime.topics import Extent, TopicReader, topic_reader

_PATIENCE: Final = 15.0
"""Seconds for connecting, and for one batch to become durable."""
_WINDOW: Final = 200
_BATCH_LETTERS: Final = 500
_BATCH_BYTES: Final = 16 * 1024 * 1024

Found = tuple[DeadLetter, Handled | None]
Wanted = Callable[[DeadLetter], bool]


def matching(reason: str | None, workspace: str | None) -> Wanted:
    """Letters whose reason holds this text, and of this workspace; None: any."""

    def wanted(letter: DeadLetter) -> bool:
        if reason is not None and reason.casefold() not in letter.reason.casefold():
            return False
        return workspace is None or letter.workspace == workspace

    return wanted


class Retried(msgspec.Struct):
    """What came of sending letters again."""

    retried: list[str] = []
    events: int = 0
    new_dead_letters: int = 0
    refused: list[tuple[str, str]] = []
    """Id and reason of those that cannot be processed now, either."""


class Desk:
    """One person's work on the dead letters of a cluster."""

    def __init__(
        self, settings: Settings, reader: TopicReader, connection: Any, cluster: str
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._connection = connection
        self._cluster = cluster

    async def extents(self) -> dict[int, Extent]:
        """What the topic holds."""
        return await self._reader.extents(DEAD_LETTER_TOPIC)

    async def count_handled(self, extents: dict[int, Extent]) -> int:
        """How many of what the topic holds were dealt with."""
        firsts = {number: extent.first for number, extent in extents.items()}
        return await handled.count(self._connection, self._cluster, firsts)

    async def newest(self, limit: int, wanted: Wanted, *, also_handled: bool) -> list[Found]:
        """Newest first, at most `limit`; without their values, which may be megabytes each."""
        left = await self.extents()
        counts = dict.fromkeys(left, 0)
        found: list[Found] = []
        while left := {
            number: extent for number, extent in left.items() if extent and counts[number] < limit
        }:
            window = {
                number: Extent(max(extent.first, extent.end - max(limit, _WINDOW)), extent.end)
                for number, extent in left.items()
            }
            for letter, mark in await self._read(window, values=False):
                if wanted(letter) and (also_handled or mark is None):
                    counts[letter.partition] += 1
                    found.append((letter, mark))
            left = {
                number: Extent(extent.first, window[number].first)
                for number, extent in left.items()
            }
        found.sort(key=lambda item: (-item[0].stored_ms, item[0].partition, -item[0].offset))
        return found[:limit]

    async def one(self, place: Place) -> Found:
        """A letter by its place. Raises CommandError when there is none."""
        partition, offset = place
        extent = (await self.extents()).get(partition)
        if extent is None or not extent.first <= offset < extent.end:
            raise CommandError(
                f"there is no dead letter {partition}-{offset}; `registry-quota dead-letters list "
                "--handled` shows all that the topic holds"
            )
        found = await self._read({partition: Extent(offset, offset + 1)})
        if not found:
            raise CommandError(f"{partition}-{offset} is no dead letter")
        return found[0]

    async def open_letters(self, wanted: Wanted) -> AsyncIterator[list[DeadLetter]]:
        """Everything that nobody has dealt with, in batches."""
        batch: list[DeadLetter] = []
        size = 0
        async for record in self._reader.read(DEAD_LETTER_TOPIC, await self.extents()):
            letter = _letter(record)
            if not wanted(letter):
                continue
            batch.append(letter)
            size += len(letter.value)
            if len(batch) >= _BATCH_LETTERS or size >= _BATCH_BYTES:
                yield await self._only_open(batch)
                batch, size = [], 0
        yield await self._only_open(batch)

    async def retry(self, letters: Sequence[DeadLetter], outcome: Retried) -> None:
        """Publish what stands for them, then mark them; a crash in between only repeats events."""
        rule = WorkspaceRule(self._settings.workspace_pattern)
        messages = []
        sent: list[DeadLetter] = []
        for letter in letters:
            try:
                messages += messages_for(letter, rule)
                sent.append(letter)
            except StillBadError as error:
                outcome.refused.append((letter.id, str(error)))
        if not sent:
            return
        async with _producer(self._settings) as producer, asyncio.timeout(_PATIENCE):
            waiting = [
                await producer.send(item.topic, item.value, item.key, headers=item.headers)
                for item in messages
            ]
            await asyncio.gather(*waiting)
        await self.mark(sent, "retried")
        outcome.retried += [letter.id for letter in sent]
        dead = sum(item.is_dead_letter for item in messages)
        outcome.new_dead_letters += dead
        outcome.events += len(messages) - dead

    async def mark(self, letters: Sequence[DeadLetter], outcome: Outcome) -> None:
        """Remember that they need nobody's attention any more."""
        places = [(letter.partition, letter.offset) for letter in letters]
        await handled.mark(self._connection, self._cluster, places, outcome, now=datetime.now(UTC))

    async def _read(self, extents: dict[int, Extent], *, values: bool = True) -> list[Found]:
        letters = [
            _letter(record) if values else msgspec.structs.replace(_letter(record), value=b"")
            async for record in self._reader.read(DEAD_LETTER_TOPIC, extents)
        ]
        marks = await self._marks(letters)
        return [(letter, marks.get((letter.partition, letter.offset))) for letter in letters]

    async def _only_open(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        marks = await self._marks(letters)
        return [letter for letter in letters if (letter.partition, letter.offset) not in marks]

    async def _marks(self, letters: Sequence[DeadLetter]) -> dict[Place, Handled]:
        places = [(letter.partition, letter.offset) for letter in letters]
        return await handled.find(self._connection, self._cluster, places)


def _letter(record: ConsumerRecord) -> DeadLetter:
    return dead_letter(
        record.partition,
        record.offset,
        record.key,
        record.value,
        record.headers or (),
        record.timestamp,
    )


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    async with asyncio.timeout(_PATIENCE):
        producer = await open_producer(settings)
    try:
        yield producer
    finally:
        await discard_producer(producer)


@asynccontextmanager
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    """A desk with everything connected; what is away is one sentence (CommandError)."""
    try:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(database())
            async with asyncio.timeout(_PATIENCE):
                reader = await stack.enter_async_context(topic_reader(settings))
                cluster = await cluster_id(settings)
            yield Desk(settings, reader, connection, cluster)
    except (KafkaError, TimeoutError) as error:
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer as it should ({text_of(error)}); "
            "check RQ_KAFKA_BOOTSTRAP, and run `registry-quota migrate` if topics are missing"
        ) from error
