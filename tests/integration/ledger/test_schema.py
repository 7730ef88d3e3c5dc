"""The migrations build exactly what `ledger.tables` says."""

import asyncio
import sys

import asyncpg
from alembic import command
from alembic.util import CommandError

from migrations.upgrade import configuration
from tests.support.database import empty_database


async def test_tables_and_migrations_agree(database_url):
    try:
        await asyncio.to_thread(command.check, configuration(database_url))
    except CommandError as error:  # pragma: no cover - tells what differs
        raise AssertionError(str(error)) from error


async def migrate_in_a_process(url: str) -> None:
    code = "import asyncio, sys; from migrations.upgrade import upgrade; asyncio.run(upgrade(sys.argv[1]))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, url)
    assert await process.wait() == 0


async def test_migrating_from_two_processes_at_once_is_harmless(postgres_url):
    async with empty_database(postgres_url) as url:
        await asyncio.gather(migrate_in_a_process(url), migrate_in_a_process(url))
        connection = await asyncpg.connect(url)
        try:
            assert await connection.fetchval("SELECT count(*) FROM workspaces") == 0
        finally:
            await connection.close()
