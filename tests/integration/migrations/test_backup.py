"""An old backup is enough: the offsets in it say where to go on in the topic, and nothing is lost."""

from datetime import UTC, datetime

import asyncpg
import pytest_asyncio
from pydantic import SecretStr

from consumer.rebuild import rebuilding
from devstack.processes import run_tool
from migrations.upgrade import upgrade
from runtime.kafka import cluster_id, create_topics
from runtime.postgres import open_pool
from tests.support import ledgers
from tests.support.consumers import caught_up, consuming, settings_for
from tests.support.database import empty_database
from tests.support.earlier import PREFIX, earlier_ledger, send
from tests.support.postgres_tools import postgres_tools


@pytest_asyncio.fixture
async def tools(database_url):
    """Where `pg_dump` and `pg_restore` of the server's version are."""
    connection = await asyncpg.connect(database_url)
    try:
        return postgres_tools(connection.get_server_version().major)
    finally:
        await connection.close()


async def consumed(pool):
    """How many records of the topic a ledger has taken in, by its own offsets."""
    return await pool.fetchval("SELECT sum(next_offset) FROM consumer_offsets")


async def test_an_old_backup_catches_up_to_the_ledger_that_was_lost(
    pool, database_url, postgres_url, kafka_bootstrap, tools, tmp_path
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    cluster = await cluster_id(settings)
    told = earlier_ledger()
    backup = tmp_path / "backup"

    await send(settings, told.consumed)
    async with consuming(settings, pool, cluster=cluster):
        await caught_up(settings, pool, cluster=cluster)
        # While the consumer runs: a backup stops nobody.
        dump = ["--format=custom", "--no-owner", f"--file={backup}", database_url]
        await run_tool([tools / "pg_dump", *dump], what="pg_dump")
        await send(settings, told.coming)
        await caught_up(settings, pool, cluster=cluster)
    lost, reached = await ledgers.rows(pool), await consumed(pool)

    async with empty_database(postgres_url) as url:
        restore = ["--exit-on-error", "--no-owner", f"--dbname={url}", backup]
        await run_tool([tools / "pg_restore", *restore], what="pg_restore")
        await upgrade(url)
        restored = await open_pool(url, size=4, name="tests")
        try:
            assert await consumed(restored) == reached - len(told.coming)
            # The same group as before: what Kafka remembers of it is further than the backup.
            async with consuming(settings, restored, cluster=cluster):
                await caught_up(settings, restored, cluster=cluster)
            assert await ledgers.rows(restored) == lost
            assert await ledgers.usage(restored) == await ledgers.recount(restored)
        finally:
            await restored.close()
        again = settings.model_copy(update={"database_url": SecretStr(url)})
        async with rebuilding(
            again, clock=lambda: datetime.now(UTC), progress=lambda *_: None
        ) as rebuild:
            found = [item async for item in rebuild.differences()]
    assert [item for item in found if item.workspace.startswith(PREFIX)] == []
