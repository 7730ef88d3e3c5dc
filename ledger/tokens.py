"""API tokens: what is kept of them. The secret itself is not: only its hash."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from runtime.postgres import Connection


class Token(msgspec.Struct, frozen=True):
    """A token's row. `workspaces` None: all of them. Times in UTC."""

    id: str
    secret_hash: bytes
    name: str
    scopes: tuple[str, ...]
    workspaces: tuple[str, ...] | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


_COLUMNS = """
id, secret_hash, name, scopes, workspaces, created_by, created_at, expires_at, revoked_at, last_used_at
"""

MOST_OF_A_MAKER = 2000
"""Tokens that one caller has made and that are good still, or were made within a day."""

ADD = """
INSERT INTO api_tokens
    (id, secret_hash, name, scopes, workspaces, created_by, created_at, expires_at)
SELECT $1, $2, $3, $4, $5, $6::text, $7::timestamptz, $8::timestamptz
WHERE (
  SELECT count(*) FROM api_tokens WHERE created_by = $6::text AND (
    created_at > $7::timestamptz - interval '1 day'
    OR (revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $7::timestamptz)))) < $9::int8
RETURNING id
"""

FIND = f"SELECT {_COLUMNS} FROM api_tokens WHERE id = $1"  # noqa: S608 - constants

# A token that is good for all workspaces is shown to those only who may see all.
LIST = f"""
SELECT {_COLUMNS} FROM api_tokens
WHERE id > $1 AND ($2::text[] IS NULL OR (workspaces IS NOT NULL AND workspaces <@ $2))
ORDER BY id LIMIT $3
"""  # noqa: S608 - constants

REVOKE = """
UPDATE api_tokens SET revoked_at = coalesce(revoked_at, $2)
WHERE id = $1 AND ($3::text[] IS NULL OR (workspaces IS NOT NULL AND workspaces <@ $3))
RETURNING id
"""

# Many requests of one moment write once.
USED = """
UPDATE api_tokens SET last_used_at = $2
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)
"""


def _token(row: Sequence[object]) -> Token:
    fields = dict(zip(Token.__struct_fields__, row, strict=True))
    return msgspec.convert(fields, Token)


async def add(connection: Connection, token: Token) -> bool:
    """Keep a new token; False when its maker has made too many."""
    added = await connection.fetchval(
        ADD,
        token.id,
        token.secret_hash,
        token.name,
        list(token.scopes),
        None if token.workspaces is None else list(token.workspaces),
        token.created_by,
        token.created_at,
        token.expires_at,
        MOST_OF_A_MAKER,
    )
    return added is not None


async def find(connection: Connection, token_id: str) -> Token | None:
    """A token by its id, also one that is revoked or has expired."""
    row = await connection.fetchrow(FIND, token_id)
    return None if row is None else _token(tuple(row.values()))


async def page(
    connection: Connection, *, within: Sequence[str] | None, after: str, limit: int
) -> list[Token]:
    """Tokens by id behind `after`; with `within` those alone that are good for nothing else."""
    rows = await connection.fetch(LIST, after, within, limit)
    return [_token(tuple(row.values())) for row in rows]


async def revoke(
    connection: Connection, token_id: str, *, within: Sequence[str] | None, now: datetime
) -> bool:
    """End a token; may be repeated. False when there is none (`within` as for `page`)."""
    return await connection.fetchval(REVOKE, token_id, now, within) is not None


async def used(connection: Connection, token_id: str, *, now: datetime, every: timedelta) -> None:
    """Note that a token was used, at most once in `every`."""
    await connection.execute(USED, token_id, now, now - every)
