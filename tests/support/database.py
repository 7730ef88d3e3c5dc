"""Databases for tests: migrated once into a template, cloned for each test."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from migrations.upgrade import upgrade

_templates: dict[str, str] = {}


class Kept(NamedTuple):
    """A connection that is kept, and the event loop that it belongs to."""

    loop: asyncio.AbstractEventLoop
    connection: asyncpg.Connection
    one_at_a_time: asyncio.Lock


_kept: dict[str, Kept] = {}


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


@asynccontextmanager
async def kept_connection(server_url: str) -> AsyncIterator[None]:
    """Makes and drops databases of a server by one connection: to connect costs more than either.

    For this event loop alone: machines of Hypothesis have their own, and connect anew.
    """
    connection = await asyncpg.connect(server_url)
    _kept[server_url] = Kept(asyncio.get_running_loop(), connection, asyncio.Lock())
    try:
        yield
    finally:
        del _kept[server_url]
        await connection.close()


async def _execute(server_url: str, statement: str) -> None:
    known = _kept.get(server_url)
    here = asyncio.get_running_loop()
    if known is not None and known.loop is here and not known.connection.is_closed():
        async with known.one_at_a_time:
            await known.connection.execute(statement)
        return
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


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
