"""Fixtures that every test may use. Infrastructure is started once per session, when first asked for."""

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from runtime.postgres import Pool, open_pool
from tests.support.backends import Backend, choose_backend
from tests.support.database import cloned_database, kept_connection
from tests.support.promises import Measured, Promise, Scale, form_of, table, write_table

MEASURED = pytest.StashKey[Measured]()
BEGAN = pytest.StashKey[float]()

# How long an example takes says how busy the machine is, nothing about what is tested.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--promise-table", metavar="FILE", help="write the promise table into FILE")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = Measured()
    config.stash[BEGAN] = time.monotonic()
    config.pluginmanager.register(config.stash[MEASURED], "promises")
    # A broker of the tests lives for seconds or minutes: what its Java would compile for later is never
    # earned back (3 of 10 CPU seconds of a start and 2,000 messages).
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    # A shell starts what it sends to the background without Ctrl-C, and processes that tests start and
    # end by it would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    measured = config.stash[MEASURED]
    if not any(row.tests for row in measured.rows.values()):
        return
    terminalreporter.section("promises")
    for line in table(measured, markdown=False):
        terminalreporter.line(line)
    if path := config.getoption("--promise-table"):
        took = time.monotonic() - config.stash[BEGAN]
        write_table(Path(path), measured, took, form_of(os.environ))


@pytest.fixture(scope="session")
def scale() -> Scale:
    """How much a fault test does (`RQ_FAULTS`: short, medium or long)."""
    return Scale(form_of(os.environ))


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Promise:
    """Where a test marked with `promise` tells what it measured."""
    mark = request.node.get_closest_marker("promise")
    assert mark is not None, "a test that measures a promise says which one"
    return Promise(mark.args[0], request.node.user_properties)


_ALONE = (
    "tests/faults/test_acknowledged.py",
    "tests/faults/test_database_in_cleanup.py",
    "tests/faults/test_floods.py",
    "tests/faults/test_full_disk.py",
    "tests/faults/test_half_open.py",
    "tests/faults/test_leaks.py",
    "tests/faults/test_neighbours.py",
    "tests/faults/test_older_database.py",
    "tests/faults/test_places.py",
    "tests/faults/test_poison.py",
    "tests/faults/test_silence.py",
    "tests/faults/test_storm.py",
    "tests/faults/test_watchdog.py",
    "tests/integration/runtime/test_producers.py",
    "tests/integration/webhook_receiver/test_faults.py",
    "tests/integration/webhook_receiver/test_hostile_http.py",
    "tests/integration/webhook_receiver/test_large.py",
    "tests/integration/webhook_receiver/test_table.py",
    "tests/unit/quota/test_planner_large.py",
)
"""Their promises are in seconds: `make test` runs these with nothing beside them, and single tests of
other files that are marked so."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs alone, before `-m` chooses; put what takes longest first."""
    for item in items:
        if item.nodeid.startswith(_ALONE):
            item.add_marker(pytest.mark.alone)
    # A room that one process has to itself begins first, the many short files fill up the end.
    # In it what the README says first: its commands are for a registry that has what the ledger says.
    items.sort(
        key=lambda item: (
            _room(item.nodeid) is None,
            "tests/unit/" in item.nodeid,
            "acceptance/test_demo.py" not in item.nodeid,
        )
    )


def _room(test: str) -> str | None:
    """What a test's whole system is called, which is started once a process: all of a room share one."""
    parameters = test.partition("[")[2].removesuffix("]").split("-")
    if test.startswith("tests/acceptance/"):
        return "registry 3" if "3" in parameters else "registry 2"
    if test.startswith("tests/integration/cli/"):
        return "commands"
    if test.startswith("tests/faults/") and not test.startswith(_WITH_A_BROKER_ALONE):
        return "faults"
    return None


_WITH_A_BROKER_ALONE = ("tests/faults/test_group.py", "tests/faults/test_log.py")


class _RoomsAndFiles(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of a room or of a file go to one process, in the order of their collection."""

    def _split_scope(self, nodeid: str) -> str:
        return _room(nodeid) or nodeid.split("::", 1)[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """How `-n` shares the tests out."""
    config.option.loadscopereorder = False
    return _RoomsAndFiles(config, log)


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
async def postgres_url(backend: Backend) -> AsyncIterator[str]:
    """Superuser's URL of the session's Postgres, database `postgres`; create one's own database."""
    url = await backend.postgres_url()
    async with kept_connection(url):
        yield url


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
