"""Alembic environment: async engine, one migration at a time, bounded waits for locks."""

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ledger.tables import metadata
from runtime.settings import Settings

_ADVISORY_LOCK = 0x52_51_4D_49_47  # "RQMIG"


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        # A migration must never queue behind a long transaction and stop the consumers with it.
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(text("SET LOCAL statement_timeout = '15min'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        context.run_migrations()


async def _connect_and_run() -> None:
    url: str = context.config.attributes.get("url") or Settings.load().required_database_url()
    # asyncpg reads the URL itself: SQLAlchemy would not know libpq's parameters (sslmode, …).
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


def _main() -> None:
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        _run(given)
    else:
        asyncio.run(_connect_and_run())


_main()
