"""Alembic environment: one revision a transaction, one process at a time, bounded waits for locks."""

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ledger.tables import metadata
from migrations.online import timeouts
from runtime.settings import Settings

_ADVISORY_LOCK = 0x52_51_4D_49_47  # "RQMIG"
_POLL_SECONDS = 0.2


def _prepare(connection: Connection) -> bool:
    """Set the session up; whether it is the one that may migrate."""
    for statement in timeouts():
        connection.execute(text(statement))
    # Asked for again and again, never waited for: an index that is built concurrently waits for every
    # session that is in the middle of a statement.
    lock = text("SELECT pg_try_advisory_lock(:key)")
    taken = bool(connection.execute(lock, {"key": _ADVISORY_LOCK}).scalar())
    connection.commit()
    return taken


def _run(connection: Connection) -> None:
    # A transaction a revision: the locks of one are given back before the next.
    context.configure(
        connection=connection, target_metadata=metadata, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def _connect_and_run() -> None:
    url: str = context.config.attributes.get("url") or Settings.load().required_database_url()
    # asyncpg reads the URL itself: SQLAlchemy would not know libpq's parameters (sslmode, …).
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            while not await connection.run_sync(_prepare):  # noqa: ASYNC110 - in another process
                await asyncio.sleep(_POLL_SECONDS)
            await connection.run_sync(_run)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(_connect_and_run())
