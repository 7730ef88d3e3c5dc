"""The compose project, started once; everything here is skipped where no engine answers."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.compose import Compose, Composed, composed, why_not_compose


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def project(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Compose, Composed]]:
    """`docker compose up --build --wait`, and the way in from outside."""
    if why := why_not_compose():
        pytest.skip(why)
    async with composed(tmp_path_factory.mktemp("compose")) as started:
        yield started


@pytest.fixture
def compose(project: tuple[Compose, Composed]) -> Compose:
    """`docker compose …`."""
    return project[0]


@pytest.fixture
def system(project: tuple[Compose, Composed]) -> Composed:
    """The doors of the project, as the acceptance tests know them."""
    return project[1]
