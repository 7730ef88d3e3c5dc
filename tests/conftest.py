"""Fixtures that every test may use. Infrastructure is started once per session, when first asked for."""

from collections.abc import AsyncIterator

import pytest_asyncio

from runtime.postgres import Pool, open_pool
from tests.support.backends import Backend, choose_backend
from tests.support.database import cloned_database


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend() -> AsyncIterator[Backend]:
    """Real Kafka, Postgres and registries, embedded or in containers (`RQ_TEST_BACKEND`)."""
    chosen = choose_backend()
    try:
        yield chosen
    finally:
        await chosen.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kafka_bootstrap(backend: Backend) -> str:
    """`host:port` of the session's Kafka; use topics and groups of one's own."""
    return await backend.kafka_bootstrap()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_url(backend: Backend) -> str:
    """Superuser's URL of the session's Postgres, database `postgres`; create one's own database."""
    return await backend.postgres_url()


@pytest_asyncio.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """URL of a fresh database with the newest schema."""
    async with cloned_database(postgres_url) as url:
        yield url


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Connections to a fresh database with the newest schema."""
    opened = await open_pool(database_url, size=8, name="tests")
    try:
        yield opened
    finally:
        await opened.close()
