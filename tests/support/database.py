"""Databases for tests: migrated once into a template, cloned for each test."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from migrations.upgrade import upgrade

_templates: dict[str, str] = {}
_connections: dict[str, asyncpg.Connection] = {}
_one_at_a_time = asyncio.Lock()


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def _execute(server_url: str, statement: str) -> None:
    """By one connection a server, which is kept: to connect costs more than to make a database."""
    async with _one_at_a_time:
        connection = _connections.get(server_url)
        if connection is None or connection.is_closed():
            connection = _connections[server_url] = await asyncpg.connect(server_url)
        await connection.execute(statement)


async def disconnect(server_url: str) -> None:
    """Close what is kept of a server that will be ended."""
    if (known := _connections.pop(server_url, None)) is not None:
        await known.close()


async def template(server_url: str) -> str:
    """The name of a migrated database that nobody is connected to."""
    if server_url not in _templates:
        name = f"template_{uuid.uuid4().hex[:12]}"
        await _execute(server_url, f"CREATE DATABASE {name}")
        await upgrade(with_database(server_url, name))
        _templates[server_url] = name
    return _templates[server_url]


@asynccontextmanager
async def cloned_database(server_url: str) -> AsyncIterator[str]:
    """A fresh, migrated database; yields its URL and drops it afterwards."""
    async with empty_database(server_url, like=await template(server_url)) as url:
        yield url


@asynccontextmanager
async def empty_database(server_url: str, *, like: str = "template1") -> AsyncIterator[str]:
    """A fresh database without our schema (or a copy of `like`), dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    # Files are copied as they are, with what Postgres has found out about its catalogue.
    await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {like} STRATEGY FILE_COPY")
    try:
        yield with_database(server_url, name)
    finally:
        await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
