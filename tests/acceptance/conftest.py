"""Whole systems, one per registry version, ended after the last test of this folder."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from devstack.errors import StackError
from tests.support.system import System, running_system


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def system2(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Everything, beside a registry v2.8."""
    async with running_system(tmp_path_factory.mktemp("system2"), "2") as system:
        yield system


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def system3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Everything, beside a registry v3."""
    manager = running_system(tmp_path_factory.mktemp("system3"), "3")
    try:
        system = await manager.__aenter__()
    except StackError as error:
        pytest.skip(f"no registry v3 to be had here: {error}")
    try:
        yield system
    finally:
        await manager.__aexit__(None, None, None)


@pytest.fixture(params=["2", "3"])
def system(request: pytest.FixtureRequest) -> System:
    """Everything, beside each registry version in turn."""
    found: System = request.getfixturevalue(f"system{request.param}")
    return found
