"""Postgres connections."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import asyncpg

from runtime.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

Connection = asyncpg.Connection
Pool = asyncpg.Pool

CONNECT_TIMEOUT = 5.0
"""Seconds until an attempt to connect is given up."""

CLOSE_TIMEOUT = 0.5
"""Seconds that closing a pool may take."""

ACQUIRE_TIMEOUT = 10.0
"""Seconds until waiting for a free connection is given up."""

IDLE_IN_TRANSACTION_SECONDS = 20
"""After which Postgres ends a transaction whose process does nothing: frozen, or cut off. Above a
consumer's session time-out, so that its successor waits for no longer than it took to notice."""

NOTICING_THE_LOST = {
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""By which Postgres notices within half a minute that a client of ours has gone without a word (its
machine, or the network between), and lets go of its locks. Systems' own default is two hours."""

_RETRIABLE = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)

NO_ROOM = (asyncpg.InsufficientResourcesError, asyncpg.PostgresIOError)
"""What is raised by a full disk, too little memory, too many connections: somebody has to make room, and
a process that starts again makes none."""

UNAVAILABLE = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    # The server has said goodbye on this connection, and has not closed it yet.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    *NO_ROOM,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
)
"""What is raised while the database is away: wait and try again."""

_NOT_LET_IN = ("28", "3D000")
"""SQLSTATEs of a wrong user or password (a class), and of a database that does not exist."""
_ANOTHER_SCHEMA = ("42P01", "42703", "3F000")
"""SQLSTATEs of a table, a column or a schema that does not exist."""


def refused(error: BaseException) -> str | None:
    """A sentence for a person, when Postgres refuses who we say we are or lacks what we ask for; else None.

    `error` is asyncpg's, or SQLAlchemy's with asyncpg's inside. Waiting does not help.
    """
    refusal = getattr(error, "orig", None) or error
    state = getattr(refusal, "sqlstate", None) or ""
    if state in _ANOTHER_SCHEMA:
        return "the database's schema is not this release's: run `registry-quota migrate`"
    if state.startswith(_NOT_LET_IN):
        return f"Postgres refuses: {refusal}; check user, password and database in RQ_DATABASE_URL"
    return None


class BoundedPool(asyncpg.Pool):  # type: ignore[misc]
    """A pool that is waited for at most `ACQUIRE_TIMEOUT` seconds.

    asyncpg's own waits without an end, for a free connection as well as for a broken one that is
    given back: behind a database that goes silent everything would pile up.
    """

    __slots__ = ()

    def acquire(self, *, timeout: float | None = None) -> Any:
        """A connection for `async with`, and for nothing else. Raises TimeoutError."""
        return _held(super().acquire(timeout=ACQUIRE_TIMEOUT if timeout is None else timeout))


@asynccontextmanager
async def _held(acquired: Any) -> AsyncIterator[asyncpg.Connection]:
    """A connection while it is held: whoever is cancelled meanwhile is told nothing else.

    Where the connection is lost at that moment, asyncpg fails to roll back or to give it back, and that
    error takes the place of the cancellation: whoever waits for the database would try again, for ever.
    """
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    cancelled_before = task.cancelling()
    try:
        async with acquired as connection:
            yield connection
    except Exception as error:
        # The count is not enough by itself: a failing TaskGroup of Python 3.11 leaves its parent's higher.
        if task.cancelling() > cancelled_before and _in_the_place_of_a_cancellation(error):
            raise asyncio.CancelledError from error
        raise


def _in_the_place_of_a_cancellation(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, asyncio.CancelledError):
            return True
        error = error.__context__
    return False


class StatementConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection for statements that are transactions of their own.

    There is nothing of a session to give back, so it goes back without asyncpg's statement that resets
    one: a round trip less for each use. Whoever could leave something behind is refused here.
    """

    __slots__ = ()

    def get_reset_query(self) -> str:
        """Nothing."""
        return ""

    def transaction(self, **_options: Any) -> Any:
        """Raises InterfaceError."""
        raise asyncpg.InterfaceError("this connection is for single statements: use the other pool")


async def open_statement_pool(url: str, *, size: int, name: str) -> "asyncpg.Pool[asyncpg.Record]":
    """A pool like `open_pool`'s for single statements: each is a transaction of its own."""
    return await open_pool(url, size=size, name=name, connection_class=StatementConnection)


async def open_pool(
    url: str,
    *,
    size: int,
    name: str,
    connection_class: type[asyncpg.Connection] = asyncpg.Connection,
    **options: Any,
) -> "asyncpg.Pool[asyncpg.Record]":
    """A pool of up to `size` connections that shows as `name` in pg_stat_activity.

    Idle-in-transaction and lock waits are bounded (seconds in `server_settings`), so that a
    frozen process of ours cannot hold a workspace's lock for ever.
    """
    return await BoundedPool(
        url,
        min_size=1,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        loop=None,
        connection_class=connection_class,
        record_class=asyncpg.Record,
        timeout=CONNECT_TIMEOUT,
        command_timeout=60,
        server_settings={
            "application_name": name,
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
            "lock_timeout": "30s",
            # Our statements are set-based and short; compiling them costs more than it gives.
            "jit": "off",
            **NOTICING_THE_LOST,
        },
        **options,
    )


async def close_pool(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Close, and soon; raises nothing of Postgres's.

    asyncpg waits without an end for whoever holds a connection, and for a silent server to hang up.
    """
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await pool.close()  # cancelled it aborts what is left
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        log.info("connections_aborted", reason=repr(error))


async def retry_conflicts(work: Callable[[], Awaitable[T]], *, attempts: int = 8) -> T:
    """Run a whole transaction again when Postgres chose it as the victim of a conflict (40P01, 40001)."""
    for attempt in range(1, attempts + 1):
        try:
            return await work()
        except _RETRIABLE as error:
            if attempt == attempts:
                raise
            log.info("transaction_retried", reason=type(error).__name__, attempt=attempt)
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable")
