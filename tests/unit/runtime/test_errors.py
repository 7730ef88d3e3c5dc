"""What an error says, for people."""

import re
import socket

import aiohttp
import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError

from runtime.errors import text_of
from runtime.postgres import refused

SAID = [
    (TimeoutError(), "no answer in time"),
    (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
    (aiohttp.ServerDisconnectedError(), "Server disconnected"),
    (NodeNotReadyError(), "node not ready"),
    (
        KafkaConnectionError("Unable to bootstrap from [('k', 9092, <AddressFamily.AF_INET: 2>)]"),
        "nobody answers there",
    ),
    (RuntimeError("<aiokafka.Consumer object at 0x7f2316978790> is lost"), "is lost"),
    (OSError("two\nlines"), "two lines"),
    (ValueError("x" * 1000), "x" * 399 + "…"),
]


@pytest.mark.parametrize(("error", "said"), SAID, ids=lambda item: type(item).__name__)
def test_it_is_said_in_words_and_in_one_line(error, said):
    assert text_of(error) == said


async def test_where_no_connection_came_about_is_said_with_the_reason():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError) as refused:
                await session.get(f"http://127.0.0.1:{port}/v2/")
    assert text_of(refused.value) == f"no connection to 127.0.0.1:{port}: Connection refused"
    assert not re.search(r"ConnectionKey|0x", text_of(refused.value))


async def test_an_address_of_version_6_is_said_whole():
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError) as refused:
            await session.get("http://[::1]:1/v2/")
    assert text_of(refused.value).startswith("no connection to [::1]:1: ")


async def test_a_client_of_kafka_that_did_not_start_is_not_left_unclosed(recwarn):
    from runtime.kafka import start
    from runtime.settings import Settings

    settings = Settings(kafka_bootstrap="127.0.0.1:1")
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(KafkaConnectionError):
        await start(consumer, settings)
    del consumer
    assert not [item for item in recwarn if "Unclosed" in str(item.message)]


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UndefinedTableError('relation "x" does not exist'),
        asyncpg.UndefinedColumnError('column "x" does not exist'),
        asyncpg.InvalidSchemaNameError('schema "x" does not exist'),
    ],
)
def test_a_database_of_another_release_says_what_mends_it(error):
    assert "registry-quota migrate" in (refused(error) or "")
    assert refused(asyncpg.UniqueViolationError("twice")) is None
