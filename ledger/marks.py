"""The key of our marks on what we put back (`registry.marks`), made once by a migration."""

import asyncpg

from runtime.postgres import Connection, Pool

OWN_MARKS = "SELECT key, (extract(epoch FROM made_at) * 1000000000)::int8 FROM public.own_marks"


async def own_marks(database: Connection | Pool) -> tuple[bytes, int]:
    """The key, and since when there is one (nanoseconds). Raises LookupError where the row is gone."""
    row: asyncpg.Record | None = await database.fetchrow(OWN_MARKS)
    if row is None:
        raise LookupError("the table own_marks is empty: put its row back from a backup")
    return row[0], row[1]
