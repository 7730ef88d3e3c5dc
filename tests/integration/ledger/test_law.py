"""The same law on real Postgres: the Recorder's transactions instead of dictionaries."""

import asyncio
import sys
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ledger.facts import Fact
from ledger.mapping import Mapper
from quota.levels import level
from registry.workspaces import Placement, WorkspaceRule
from runtime.postgres import Pool, open_pool
from tests.support import ledgers
from tests.support.database import cloned_database
from tests.support.law import QUOTA, LedgerLaw, Tried, histories_to_try
from tests.support.memory_ledger import Crash

NOW = datetime(2026, 11, 23, tzinfo=UTC)
T = TypeVar("T")


class Database:
    """A database on an event loop of its own, for a machine that is not asynchronous."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.pool: Pool

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


@contextmanager
def database(server_url: str) -> Iterator[Database]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opened = Database(loop)
    stack = AsyncExitStack()

    async def start() -> Pool:
        url = await stack.enter_async_context(cloned_database(server_url))
        pool = await open_pool(url, size=4, name="law")
        stack.push_async_callback(pool.close)
        return pool

    try:
        opened.pool = opened.run(start())
        yield opened
    finally:
        opened.run(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class PostgresLedger:
    """A `Recorder` and a `Mapper` on an emptied database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._run, self._pool = database.run, database.pool
        self._run(ledgers.empty(self._pool))
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is cached."""
        self._recorder = ledgers.recorder(self._pool, quota_bytes=QUOTA)

    def record(self, facts: Sequence[Fact], *, crash: bool = False) -> None:
        async def within(_connection: Any, _recorded: Any) -> None:
            if crash:
                raise Crash

        try:
            self._run(self._recorder.record(facts, now=NOW, within=within))
        except Crash:
            self.restart()

    def map(self, repository: str, workspace: str) -> None:
        mapper = Mapper(
            self._pool,
            rule=WorkspaceRule(ledgers.PATTERN),
            default_quota_bytes=QUOTA,
            level_of=level,
        )
        self._run(mapper.map("default", repository, Placement(workspace, "app"), now=NOW))

    def view(self) -> dict[str, Any]:
        return self._run(self._view())

    async def _view(self) -> dict[str, Any]:
        emitted = await self._pool.fetch(
            "SELECT workspace, data->>'previous_level', data->>'level' FROM outbox"
            " WHERE type LIKE '%level_changed%' ORDER BY id"
        )
        levels = await self._pool.fetch("SELECT name, level FROM workspaces")
        return {
            "usage": await ledgers.usage(self._pool),
            "recount": await ledgers.recount(self._pool),
            "references_agree": await ledgers.references_agree(self._pool),
            "emitted": [tuple(row) for row in emitted],
            "levels": {row["name"]: row["level"] for row in levels},
        }

    def manifests(self) -> set[tuple[str, bytes]]:
        return self._run(ledgers.manifests(self._pool))

    def tags(self) -> dict[tuple[str, str], bytes]:
        found = self._run(ledgers.tags(self._pool))
        return {
            (repository, name): named
            for repository, tags in found.items()
            for name, named in tags.items()
        }

    def rows(self) -> Any:
        return self._run(ledgers.rows(self._pool))


class TriedOnPostgres(Tried):
    pass


def test_the_recorder_keeps_the_law_on_postgres(postgres_url):
    with database(postgres_url) as opened:

        class PostgresLaw(LedgerLaw):
            tried: ClassVar[type[Tried]] = TriedOnPostgres

            def fresh_ledger(self) -> PostgresLedger:
                return PostgresLedger(opened)

        run_state_machine_as_test(
            PostgresLaw,
            settings=settings(
                max_examples=histories_to_try(40),
                stateful_step_count=20,
                deadline=None,
                phases=[Phase.explicit, Phase.reuse, Phase.generate],
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    sys.stdout.write(f"\nPostgres: {TriedOnPostgres.told()}")
