"""What a connection says when the database goes away counts as that, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from runtime.postgres import UNAVAILABLE, close_pool, open_pool, open_statement_pool
from tests.support.fault_proxy import fault_proxy

_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
GOODBYE = b"E" + (len(_FIELDS) + 4).to_bytes(4, "big") + _FIELDS
"""The message by which a server that goes down ends a connection."""


class Between:
    """Stands between a client and Postgres, and can speak for the latter."""

    def __init__(self) -> None:
        self.url = ""
        self.clients: list[asyncio.StreamWriter] = []


@asynccontextmanager
async def between(postgres_url: str) -> AsyncIterator[Between]:
    there = urlsplit(postgres_url)
    middle = Between()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        middle.clients.append(writer)
        server_reader, server_writer = await asyncio.open_connection(there.hostname, there.port)
        ways = [
            asyncio.create_task(pass_on(reader, server_writer)),
            asyncio.create_task(pass_on(server_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.close()
            server_writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    place = f"{there.username}:{there.password}@127.0.0.1:{port}"
    middle.url = urlunsplit(("postgresql", place, there.path, "sslmode=disable", ""))
    try:
        yield middle
    finally:
        server.close()


async def test_a_connection_that_was_said_goodbye_to_counts_as_the_database_being_away(
    database_url,
):
    async with between(database_url) as middle:
        pool = await open_pool(middle.url, size=2, name="tests")
        try:
            assert await pool.fetchval("SELECT 1") == 1
            async with pool.acquire() as connection:
                for client in middle.clients:
                    client.write(GOODBYE)  # ... and the connection stays open for a moment
                for _turn in range(3):  # of this loop, which reads at the other end as well
                    await asyncio.sleep(0)
                with pytest.raises(UNAVAILABLE):
                    await connection.execute("BEGIN")
            assert await pool.fetchval("SELECT 2") == 2, "the pool has another one at once"
        finally:
            await pool.close()


async def test_a_connection_for_single_statements_goes_back_with_nothing_open(database_url):
    pool = await open_statement_pool(database_url, size=1, name="tests")
    try:
        async with pool.acquire() as connection:
            with pytest.raises(asyncpg.InterfaceError):
                connection.transaction()
        asked = asyncio.create_task(pool.execute("SELECT pg_sleep(30)"))
        done, _waiting = await asyncio.wait([asked], timeout=0.1)
        assert not done
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        first, second = [await pool.fetchval("SELECT now()") for _ in range(2)]
        assert first < second, "each is a transaction of its own"
    finally:
        await pool.close()


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("first", ["cancelled", "cut"])
async def test_who_is_cancelled_while_its_connection_is_lost_is_cancelled(
    database_url, turns: int, first: str
):
    """At whichever moment: a failing rollback in its place would be tried again, for ever."""
    async with between(database_url) as middle:
        pool = await open_pool(middle.url, size=1, name="tests")
        holds = asyncio.Event()

        async def transaction() -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT 1")
                holds.set()
                await connection.execute("SELECT pg_sleep(60)")

        try:
            task = asyncio.create_task(transaction())
            await holds.wait()
            await asyncio.sleep(0)
            for step in (first, "cut" if first == "cancelled" else "cancelled"):
                if step == "cancelled":
                    task.cancel()
                else:
                    for client in middle.clients:
                        client.transport.abort()
                for _turn in range(turns):
                    await asyncio.sleep(0)
            await asyncio.wait([task], timeout=20)
            lost_before = first == "cut" and not task.cancelled()
            assert task.cancelled() or (lost_before and isinstance(task.exception(), UNAVAILABLE))
        finally:
            pool.terminate()


async def test_a_pool_is_closed_beside_a_silent_server(database_url):
    """asyncpg would wait for whoever holds a connection, and for the server to hang up."""
    port = urlsplit(database_url).port
    assert port is not None
    async with fault_proxy(port) as proxy:
        url = database_url.replace(f":{port}/", f":{proxy.port}/")
        pool = await open_pool(url, size=2, name="tests")
        async with proxy.silent():
            holding = asyncio.create_task(pool.fetchval("SELECT 1"))
            await asyncio.wait([holding], timeout=0.1)
            async with asyncio.timeout(3):
                await close_pool(pool)
            await asyncio.wait([holding], timeout=2)
        assert isinstance(holding.exception(), UNAVAILABLE)


async def test_what_fails_beside_other_tasks_is_told_as_itself(database_url):
    """A group of tasks cancels its parent when one fails, and counts that as if somebody else had."""

    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError

    async def work(pool: asyncpg.Pool) -> None:
        async with pool.acquire(), asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(asyncio.sleep(60))

    pool = await open_pool(database_url, size=1, name="tests")
    try:
        with pytest.raises(ExceptionGroup) as told:
            await work(pool)
        assert told.group_contains(LookupError)
    finally:
        await pool.close()
