"""What the tests of several rooms ask for, and no other test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from devstack.config import StackConfig
from devstack.stack import Stack
from runtime.kafka import create_topics
from runtime.settings import Settings


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A file's own Kafka that may be killed and frozen, with our topics."""
    config = StackConfig.for_tests(tmp_path_factory.mktemp("kafka"))
    async with Stack(config, parts=("kafka",)) as stack:
        await create_topics(Settings(kafka_bootstrap=stack.kafka_bootstrap))
        yield stack
