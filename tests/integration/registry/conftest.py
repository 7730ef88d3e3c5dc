from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from registry.client import RegistryClient
from tests.support.fake_registry import FakeRegistry, serving_fake
from tests.support.registries import answering, running_registry


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def registry_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A registry that deletes, shared by the tests here: use repositories of one's own."""
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        await answering(url)
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(registry_url: str) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(registry_url) as client:
        yield client


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository that no other test uses."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")
    return f"tests/{name}"


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    async with serving_fake() as fake:
        yield fake
