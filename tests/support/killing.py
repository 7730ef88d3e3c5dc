"""A pool whose connections fail after their n-th statement, as if the process had ended there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from runtime.postgres import Pool
from tests.support.memory_ledger import Crash

_STATEMENTS = {"execute", "fetch", "fetchval", "fetchrow", "copy_records_to_table"}


class KillingPool:
    """Behaves as `pool` until `after` statements were run (0: never fails). Counts them."""

    def __init__(self, pool: Pool, after: int = 0) -> None:
        self._pool = pool
        self._after = after
        self.ran = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        async with self._pool.acquire() as connection:
            yield _KillingConnection(connection, self)

    def one_more(self) -> None:
        self.ran += 1
        if self.ran == self._after:
            raise Crash


class _KillingConnection:
    def __init__(self, connection: Any, pool: KillingPool) -> None:
        self._connection = connection
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in _STATEMENTS:
            return found

        async def run(*arguments: Any, **named: Any) -> Any:
            result = await found(*arguments, **named)
            self._pool.one_more()
            return result

        return run
