"""Which schema a database has, and which one this program needs."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from migrations.upgrade import configuration
from runtime.postgres import CONNECT_TIMEOUT

# One row for each head; alembic's own table, so it is there once anything was migrated.
CURRENT_REVISIONS = "SELECT version_num FROM alembic_version ORDER BY version_num"


@dataclass(frozen=True, slots=True)
class SchemaState:
    """A database's schema against ours."""

    server_version: str
    """Of Postgres: `18.1`."""
    server_major: int
    current: str | None
    """Revision of the database; None before the first migration."""
    newest: str
    """Revision that this program needs."""
    clock: datetime
    """The database's time (UTC)."""
    known: bool
    """False: the database was migrated by a newer program than this one."""


async def schema_state(url: str) -> SchemaState:
    """Ask a database. Raises what `runtime.postgres.UNAVAILABLE` names, and asyncpg.PostgresError."""
    script = ScriptDirectory.from_config(configuration(url))
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, command_timeout=10)
    try:
        version = connection.get_server_version()
        clock = await connection.fetchval("SELECT clock_timestamp()")
        try:
            rows = await connection.fetch(CURRENT_REVISIONS)
        except asyncpg.UndefinedTableError:
            rows = []
    finally:
        await connection.close(timeout=5)
    current = ", ".join(row["version_num"] for row in rows) or None
    return SchemaState(
        server_version=f"{version.major}.{version.minor}",
        server_major=version.major,
        current=current,
        newest=", ".join(sorted(script.get_heads())),
        clock=clock,
        known=current is None or _known(script, current),
    )


def _known(script: ScriptDirectory, revision: str) -> bool:
    try:
        return script.get_revision(revision) is not None
    except CommandError:
        return False
