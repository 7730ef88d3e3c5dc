"""The loop on real Kafka and Postgres: once in effect, poison does not block, offsets are the ledger's."""

import asyncio
import uuid

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from consumer.group import GroupOffsets
from consumer.loop import NotificationConsumer, Ownership
from consumer.outcomes import Decoded
from consumer.waiting import Waiting
from consumer.wiring import kafka_consumer
from ledger import offsets
from ledger.offsets import LogBreak
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC, create_topics
from runtime.topics import topic_reader
from tests.support import consumers
from tests.support.consumers import (
    caught_up,
    consuming,
    event,
    publish,
    settings_for,
    usage,
)
from tests.support.waiting import wait_until


async def test_events_are_counted_once_however_often_they_come(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    push = event(f"{workspace}/api")
    await publish(settings, workspace, push, push, push)
    async with consuming(settings, pool):
        await wait_until(lambda: usage(pool, workspace), 20)
        await publish(settings, workspace, push, event(f"{workspace}/web"))

        async def both():
            return await usage(pool, workspace) == 2 * 5100

        await wait_until(both, 20)


async def test_a_new_process_goes_on_where_the_ledger_stands(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    await publish(settings, workspace, event(f"{workspace}/api"))
    async with consuming(settings, pool, "first"):
        await wait_until(lambda: usage(pool, workspace), 20)
    epochs = await pool.fetchval("SELECT max(epoch) FROM consumer_offsets")
    await publish(settings, workspace, event(f"{workspace}/api", tag="2"))
    async with consuming(settings, pool, "second"):

        async def both():
            return await usage(pool, workspace) == 2 * 5100

        await wait_until(both, 20)
    assert await pool.fetchval("SELECT min(epoch) FROM consumer_offsets") == epochs + 1


async def test_poison_is_dead_lettered_and_what_follows_is_recorded(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    poison = b"not json " + workspace.encode()
    await publish(settings, workspace, poison, event(f"{workspace}/api"))
    async with consuming(settings, pool):
        await wait_until(lambda: usage(pool, workspace), 20)
    letter = await find_dead_letter(settings, poison)
    headers = dict(letter.headers)
    assert b"not JSON" in headers["reason"]
    assert headers["origin"].startswith(NOTIFICATIONS_TOPIC.encode() + b"/")
    assert headers["first-seen"]


async def find_dead_letter(settings, value):
    consumer = AIOKafkaConsumer(
        DEAD_LETTER_TOPIC,
        bootstrap_servers=settings.kafka_bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            async for record in consumer:
                if record.value == value:
                    return record
    finally:
        await consumer.stop()


async def test_a_stale_owner_writes_nothing_and_rejoins(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    await publish(settings, workspace, event(f"{workspace}/api"))
    async with consuming(settings, pool) as consumer:
        await wait_until(lambda: usage(pool, workspace), 20)
        # Somebody else took every partition meanwhile (as after a long freeze of this process).
        await pool.execute("UPDATE consumer_offsets SET epoch = epoch + 1, owner = 'other'")
        await publish(settings, workspace, event(f"{workspace}/api", tag="2"))

        async def both():
            return await usage(pool, workspace) == 2 * 5100

        await wait_until(both, 30)
        assert consumer.ready
    assert await pool.fetchval("SELECT count(*) FROM consumer_offsets WHERE owner = 'other'") == 0


class Seeks:
    """Records where a consumer is sent."""

    def __init__(self):
        self.to = []

    def seek(self, partition, offset):
        self.to.append((partition.partition, offset))

    def highwater(self, _partition):
        return 20


class Record:
    key, value, timestamp = b"acme", b"{}", 1000

    def __init__(self, offset):
        self.offset = offset


def standing_at(offset):
    consumer = object.__new__(NotificationConsumer)
    consumer._owned = {0: Ownership(epoch=1, next_offset=offset)}
    consumer._waiting, consumer._group = Waiting(1000), GroupOffsets()
    consumer._doubt, consumer._skipped = asyncio.Event(), []
    return consumer


def offsets_taken(consumer, kafka, *offsets):
    partition = TopicPartition(NOTIFICATIONS_TOPIC, 0)
    batch = consumer._in_order(kafka, {partition: [Record(offset) for offset in offsets]})
    return [record.offset for records in batch.values() for record in records]


def test_what_the_ledger_has_already_is_left_out():
    assert offsets_taken(standing_at(5), Seeks(), 3, 4, 5, 6) == [5, 6]
    consumer = standing_at(5)
    assert offsets_taken(consumer, Seeks(), 3, 4) == []
    assert consumer._doubt.is_set(), "the log is looked at: it may have been put back"


def test_a_gap_is_fetched_again_and_only_the_logs_own_gap_is_accepted():
    consumer, kafka = standing_at(5), Seeks()
    assert offsets_taken(consumer, kafka, 8, 9) == []
    assert kafka.to == [(0, 5)]
    assert offsets_taken(consumer, kafka, 8, 9) == [8, 9]
    assert consumer._skipped == [LogBreak(0, "skips", 5, 8, 20, 8)], "and told"


def test_a_partition_that_is_not_taken_over_yet_is_not_touched():
    consumer = standing_at(5)
    consumer.revoked([TopicPartition(NOTIFICATIONS_TOPIC, 0)])
    assert offsets_taken(consumer, Seeks(), 5, 6) == []


async def test_who_has_no_partition_because_there_are_no_more_stands_by_and_is_ready():
    """Kubernetes replaces the next consumer when this one is ready."""
    consumer = standing_at(5)
    consumer.revoked([TopicPartition(NOTIFICATIONS_TOPIC, 0)])
    assert not consumer.ready
    await consumer.assigned(Seeks(), [])
    assert consumer.ready
    assert consumer.owned == set()


async def test_a_partition_taken_away_while_its_batch_commits_ends_nothing():
    consumer = standing_at(5)
    partition = TopicPartition(NOTIFICATIONS_TOPIC, 0)

    class TakenAwayMeanwhile:
        async def record(self, _facts, **_options):
            consumer.revoked([partition])

    class Fetched(Record):
        partition = 0

    consumer._recorder, consumer._clock = TakenAwayMeanwhile(), lambda: None
    await consumer._transaction([Decoded(Fetched(5), None)])
    assert consumer._owned == {}

    class GivenBackMeanwhile:
        async def record(self, _facts, **_options):
            consumer._owned[0] = Ownership(epoch=9, next_offset=6)

    consumer._owned[0] = Ownership(epoch=1, next_offset=5)
    consumer._recorder = GivenBackMeanwhile()
    await consumer._transaction([Decoded(Fetched(5), None), Decoded(Fetched(7), None)])
    assert consumer._owned[0] == Ownership(epoch=9, next_offset=6)


@pytest.mark.promise("bad-release")
async def test_a_release_that_reads_nothing_stops_instead_of_emptying_the_topic(
    pool, kafka_bootstrap, promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    poison = [f"{workspace} {number}".encode() for number in range(8)]
    # Other tests have left poison of their own in the topic: begin behind it.
    async with consuming(settings, pool):
        await caught_up(settings, pool)
    await publish(settings, workspace, event(f"{workspace}/api"), *poison, event(f"{workspace}/b"))

    async with consuming(settings, pool, dead_letter_ceiling=5) as consumer:

        async def halted():
            return consumer.halted is not None

        await wait_until(halted, 20, what="the consumer halts")
        assert not consumer.ready
        put_aside = await count_dead_letters(settings, workspace.encode())
        promise.count("dead letters until it halts", put_aside)
        assert put_aside == 5
        # What came before the one too many is recorded; it and what follows wait for a better release.
        assert await usage(pool, workspace) == 5100
    async with consuming(settings, pool):
        await caught_up(settings, pool)
    recorded = (await usage(pool, workspace) or 0) // 5100
    put_aside = await count_dead_letters(settings, workspace.encode())
    promise.count("events", 2 + len(poison))
    promise.count("lost", 2 + len(poison) - recorded - put_aside)
    assert (recorded, put_aside) == (2, len(poison))


async def count_dead_letters(settings, part):
    async with topic_reader(settings) as reader:
        extents = await reader.extents(DEAD_LETTER_TOPIC)
        records = [record async for record in reader.read(DEAD_LETTER_TOPIC, extents)]
    return sum(part in record.value for record in records)


@pytest.fixture
def clients(monkeypatch):
    """The clients of Kafka that consumers open, one after another."""
    opened: list[AIOKafkaConsumer] = []

    def opening(settings, *, nameless):
        opened.append(kafka_consumer(settings, nameless=nameless))
        return opened[-1]

    monkeypatch.setattr(consumers, "kafka_consumer", opening)
    return opened


async def test_when_kafkas_client_fetches_nothing_any_more_another_one_does(
    pool, kafka_bootstrap, clients
):
    """It says nothing itself: the consumer would stand still until its watchdog ends it."""
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    async with consuming(settings, pool) as consumer:
        await wait_until(lambda: consumer.ready, 20)
        clients[0]._fetcher.error_future.cancel()
        await publish(settings, workspace, event(f"{workspace}/api"))
        await wait_until(lambda: usage(pool, workspace), 20)
    assert len(clients) == 2


async def test_a_consumer_that_cannot_take_its_partitions_over_ends(
    pool, kafka_bootstrap, monkeypatch
):
    """Rather than to stand in the group and read nothing: whoever starts it again tries again."""
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)

    async def fails(*_arguments: object) -> None:
        raise KafkaTimeoutError("where do these begin?")

    monkeypatch.setattr(AIOKafkaConsumer, "beginning_offsets", fails)

    async def until_it_ends() -> None:
        async with consuming(settings, pool):
            running = {task for task in asyncio.all_tasks() if task.get_name() == "consumer"}
            _ended, stands_still = await asyncio.wait(running, timeout=20)
            assert not stands_still

    with pytest.raises(KafkaTimeoutError):
        await until_it_ends()


async def test_a_break_of_the_log_is_kept_and_told_once_though_its_transaction_is_tried_again(
    pool, kafka_bootstrap, monkeypatch
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    keep, tries = offsets.keep_breaks, 0

    async def keep_and_lose_the_connection(connection, **what):
        nonlocal tries
        tries += 1
        await keep(connection, **what)
        if tries == 1:
            raise asyncpg.ConnectionDoesNotExistError("cut before the commit")

    monkeypatch.setattr(offsets, "keep_breaks", keep_and_lose_the_connection)
    async with consuming(settings, pool) as consumer:
        await wait_until(lambda: consumer.ready, 20)
        consumer._skipped.append(LogBreak(0, "skips", 3, 7, 9, 7))
        consumer._doubt.set()

        async def kept():
            return not consumer._skipped

        await wait_until(kept, 20)
        rows = await pool.fetch("SELECT stored_offset, resumed_offset FROM log_breaks")
        assert (tries, [tuple(row) for row in rows]) == (2, [(3, 7)])
        assert consumer._metrics.log_breaks.labels("skips")._value.get() == 1
