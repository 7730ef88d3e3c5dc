"""Bring a database to the newest schema, from code (the command line and the tests call this)."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from ledger.roles import grant
from runtime.postgres import CONNECT_TIMEOUT

PATIENCE_SECONDS = 300.0
"""How long locks are asked for."""
_PAUSE_SECONDS = 1.0
_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK_DETECTED = "40P01"


class SchemaBusyError(Exception):
    """A lock that a revision needs was never free: some transaction is open all the time."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


def configuration(url: str) -> Config:
    """Alembic's configuration for a database URL, independent of the working folder."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config


async def upgrade(
    url: str,
    revision: str = "head",
    *,
    patience: float = PATIENCE_SECONDS,
    waiting: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run every migration that is missing, up to `revision`; then give roles that exist their rights.

    Returns the names of these roles. Safe to call from several processes at once, and again after it
    was interrupted. A revision that does not get its locks within half a second gives way and is tried
    again, for `patience` seconds; `waiting` is called each time. Raises SchemaBusyError, and what
    `runtime.postgres.UNAVAILABLE` names.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            # Alembic's environment runs an event loop of its own, so it gets a thread of its own.
            await asyncio.to_thread(command.upgrade, configuration(url), revision)
            break
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", "") not in {_LOCK_NOT_AVAILABLE, _DEADLOCK_DETECTED}:
                raise
            if time.monotonic() >= deadline:
                raise SchemaBusyError from error
        waiting()
        await asyncio.sleep(_PAUSE_SECONDS)
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, command_timeout=60)
    try:
        return await grant(connection)
    finally:
        await connection.close(timeout=5)
