"""Databases for tests: migrated once into a template, cloned for each test."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from migrations.upgrade import upgrade

_templates: dict[str, str] = {}


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
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
    await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {like}")
    try:
        yield with_database(server_url, name)
    finally:
        await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
