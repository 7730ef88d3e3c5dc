"""Changes of tables that programs are using, without holding them up.

An index is built and dropped `CONCURRENTLY`, outside any transaction, waiting as long as it takes: it
blocks nobody meanwhile. A revision that does so is committed in parts, and is begun anew when it was
interrupted: what stands before a call of these has to be harmless when repeated (`if_not_exists=True`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

LOCK_TIMEOUT = "500ms"
"""Whoever waits for a table's lock makes all others wait behind: briefly, then it lets them pass.

Below Postgres's `deadlock_timeout` (1 s): where a program holds what we wait for and waits for what we
hold, we give way before one of us is refused.
"""
STATEMENT_TIMEOUT = "15min"


def timeouts() -> Sequence[str]:
    """What every migrating session sets first."""
    return (
        f"SET lock_timeout = '{LOCK_TIMEOUT}'",
        f"SET statement_timeout = '{STATEMENT_TIMEOUT}'",
    )


@contextmanager
def _without_a_transaction() -> Iterator[None]:
    with op.get_context().autocommit_block():
        # Building waits for older transactions, and is in nobody's way while it does.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        yield
        for statement in timeouts():
            op.execute(statement)


def create_index(
    name: str, table: str, columns: Sequence[str], *, unique: bool = False, where: str | None = None
) -> None:
    """Build an index while rows are written; what an interrupted attempt left is dropped first."""
    with _without_a_transaction():
        _create(name, table, columns, unique=unique, where=where)


def replace_index(
    name: str, table: str, columns: Sequence[str], *, unique: bool = False, where: str | None = None
) -> None:
    """Build another index in the place of one of that name; one of them is there at every moment."""
    successor = f"{name}_new"
    with _without_a_transaction():
        _create(successor, table, columns, unique=unique, where=where)
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"ALTER INDEX IF EXISTS {successor} RENAME TO {name}")


def replace_check(name: str, table: str, condition: str) -> None:
    """Exchange a check for another without reading the table under a lock that stops writers."""
    op.execute(
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name},"
        f" ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
    )
    with _without_a_transaction():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def _create(
    name: str, table: str, columns: Sequence[str], *, unique: bool, where: str | None
) -> None:
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    op.create_index(
        name,
        table,
        list(columns),
        unique=unique,
        postgresql_where=None if where is None else sa.text(where),
        postgresql_concurrently=True,
        if_not_exists=True,
    )
