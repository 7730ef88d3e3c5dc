"""Upgrades while events flow: from a ledger that an earlier release filled, nothing is lost."""

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest
import pytest_asyncio
from alembic import command
from pydantic import SecretStr

from consumer.rebuild import rebuilding
from migrations.upgrade import SchemaBusyError, configuration, upgrade
from runtime.kafka import NOTIFICATIONS_TOPIC, cluster_id, create_topics
from runtime.postgres import open_pool
from tests.support import ledgers
from tests.support.consumers import caught_up, consuming, settings_for, topic_ends
from tests.support.database import empty_database
from tests.support.earlier import (
    PREFIX,
    REVISION,
    earlier_code_or_skip,
    earlier_ledger,
    send,
)
from tests.support.programs import Program
from tests.support.waiting import wait_until

# Where a table's pages are: another place after it was rewritten.
PLACES = """
SELECT relname, pg_relation_filenode(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""

POSITIONS = "SELECT sum(next_offset)::int FROM consumer_offsets"

STAND_AT = """
INSERT INTO consumer_offsets (cluster_id, topic, partition, epoch, next_offset, owner)
SELECT $1, $2, partition, 1, next_offset, 'test'
FROM unnest($3::int[], $4::int8[]) AS given(partition, next_offset)
"""


@pytest_asyncio.fixture
async def here(postgres_url, kafka_bootstrap):
    """Settings of an empty database, and a Kafka with its topics."""
    async with empty_database(postgres_url) as url:
        settings = settings_for(kafka_bootstrap).model_copy(update={"database_url": SecretStr(url)})
        await create_topics(settings)
        yield settings


@asynccontextmanager
async def connected(settings):
    connection = await asyncpg.connect(settings.required_database_url())
    try:
        yield connection
    finally:
        await connection.close()


async def stand_at_the_end(settings, connection):
    """As if the ledger had taken in all that the topic holds now."""
    ends = sorted((await topic_ends(settings)).items())
    await connection.execute(
        STAND_AT,
        await cluster_id(settings),
        NOTIFICATIONS_TOPIC,
        [partition for partition, _end in ends],
        [end for _partition, end in ends],
    )


async def ours(settings):
    """Differences between the ledger and one that is rebuilt from the topic, in what was sent here."""
    async with rebuilding(
        settings, clock=lambda: datetime.now(UTC), progress=lambda *_: None
    ) as rebuild:
        return [
            item
            async for item in rebuild.differences()
            if item.workspace.startswith(PREFIX) and not only_pulled_differs(item)
        ]


def only_pulled_differs(difference):
    """The earlier release took a HEAD for a pull: the times that it kept are later, and nothing else."""
    live, rebuilt = difference.live, difference.rebuilt
    if difference.kind != "manifest" or live is None or rebuilt is None:
        return False
    differing = {name for name in live if live[name] != rebuilt[name]}
    # What it read is read again anyhow.
    again = {"read_by", "blobs", "children"} if live["read_by"] is None else set()
    return live["pulled_ns"] > rebuilt["pulled_ns"] and differing <= {"pulled_ns"} | again


async def held(pool, *, names):
    found = await ledgers.usage(pool)
    return {name: found.get(name, 0) for name in names}


@asynccontextmanager
async def writing_all_the_time(settings):
    """A program that writes to the tables a batch writes to; yields the seconds that each took."""
    took: list[float] = []

    async def write():
        async with connected(settings) as connection:
            while True:
                started = time.monotonic()
                async with connection.transaction():
                    await connection.execute("UPDATE workspaces SET changed_at = now()")
                    await connection.execute("UPDATE manifests SET pulled_ns = pulled_ns")
                took.append(time.monotonic() - started)
                await asyncio.sleep(0.01)

    task = asyncio.create_task(write())
    try:
        yield took
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_ledger_of_an_earlier_release_is_upgraded_under_load_and_goes_on(here):
    earlier = earlier_ledger()
    cluster = await cluster_id(here)
    await send(here, earlier.consumed)
    async with connected(here) as connection, connected(here) as reader:
        await connection.execute(earlier.dump)
        await connection.execute("SET search_path = public; DELETE FROM consumer_offsets")
        await stand_at_the_end(here, connection)
        places = dict(await connection.fetch(PLACES))
        announced = await connection.fetchval("SELECT count(*) FROM outbox")

        sending = asyncio.create_task(send(here, earlier.coming))
        # Somebody's report that takes its time: no table that it reads can be altered meanwhile.
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("LOCK TABLE manifests IN ACCESS SHARE MODE")
        gave_way = asyncio.Event()
        async with writing_all_the_time(here) as took:
            upgrading = asyncio.create_task(
                upgrade(here.required_database_url(), waiting=gave_way.set)
            )
            await asyncio.wait_for(gave_way.wait(), 30)
            await transaction.rollback()
            await upgrading
        assert max(took) < 5, "writers wait for a migration no longer than its lock time-out"
        now_at = dict(await connection.fetch(PLACES))
        assert {name: now_at[name] for name in places} == places, "no table was rewritten"
        await asyncio.to_thread(command.check, configuration(here.required_database_url()))

    pool = await open_pool(here.required_database_url(), size=4, name="tests")
    try:
        async with consuming(here, pool, cluster=cluster):
            await sending
            await caught_up(here, pool, cluster=cluster)
        assert await held(pool, names=earlier.bytes_of) == earlier.bytes_of
        assert await ledgers.usage(pool) == await ledgers.recount(pool)
        assert await ledgers.references_agree(pool)
        assert await pool.fetchval("SELECT count(*) FROM outbox") > announced
    finally:
        await pool.close()
    assert await ours(here) == []


async def test_a_rolling_upgrade_loses_nothing(here, tmp_path):
    """The earlier release's consumer runs on the newer schema, then beside the newer one, then ends."""
    code = earlier_code_or_skip(tmp_path / "code")
    earlier = earlier_ledger()
    events = earlier.consumed + earlier.coming
    cluster = await cluster_id(here)
    environment = {
        "RQ_KAFKA_BOOTSTRAP": here.kafka_bootstrap,
        "RQ_KAFKA_GROUP": here.kafka_group,
        "RQ_DATABASE_URL": here.required_database_url(),
        "RQ_REGISTRY_URL": "http://127.0.0.1:9",
    }
    await upgrade(here.required_database_url(), REVISION)
    older = Program(["serve", "consumer"], environment, tmp_path / "older.log", code=code)
    async with connected(here) as connection:
        await stand_at_the_end(here, connection)

        async def took(part):
            """Hand on a part of the events; the earlier consumer takes them in."""
            before = await connection.fetchval(POSITIONS)
            await send(here, part)
            await wait_until(
                lambda: moved(before, len(part)), 30, what="the earlier consumer takes events in"
            )

        async def moved(before, by):
            return await connection.fetchval(POSITIONS) - before >= by

        older.start()
        try:
            await took(events[:200])
            await upgrade(here.required_database_url())
            await took(events[200:400])
            sending = asyncio.create_task(send(here, events[400:], pause=0.005))
            pool = await open_pool(here.required_database_url(), size=4, name="tests")
            try:
                async with consuming(here, pool, cluster=cluster, owner="newer") as newer:
                    await wait_until(lambda: newer.ready, 30, what="the newer one gets partitions")
                    _code, _seconds = await older.stop()
                    await sending
                    await caught_up(here, pool, cluster=cluster)
                assert await held(pool, names=earlier.bytes_of) == earlier.bytes_of
                assert await ledgers.usage(pool) == await ledgers.recount(pool)
                assert await ledgers.references_agree(pool)
            finally:
                await pool.close()
        except BaseException as error:
            error.add_note(older.log()[-4000:])
            raise
        finally:
            older.kill()


async def test_a_migration_that_gets_no_lock_says_so_and_goes_on_later(here):
    url = here.required_database_url()
    await upgrade(url, "20261125_recounts")
    async with connected(here) as reader:
        async with reader.transaction():
            await reader.execute("LOCK TABLE cleanup_runs IN ACCESS SHARE MODE")
            with pytest.raises(SchemaBusyError):
                await upgrade(url, patience=0)
        await upgrade(url)
        await asyncio.to_thread(command.check, configuration(url))


async def test_an_index_that_an_interrupted_migration_left_is_built_again(here):
    url = here.required_database_url()
    await upgrade(url, "20261125_claims")
    async with connected(here) as connection:
        await connection.execute(
            """UPDATE alembic_version SET version_num = '20261125_cleanup';
               UPDATE pg_index SET indisvalid = false
               WHERE indexrelid = 'manifests_pending_idx'::regclass"""
        )
        await upgrade(url)
        assert await connection.fetchval("SELECT bool_and(indisvalid) FROM pg_index")
    await asyncio.to_thread(command.check, configuration(url))
