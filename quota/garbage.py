"""After the registry's garbage collection: is what the account freed really gone from storage?

An operator says that a collection ran; every blob that awaits one is asked for by HEAD, in a
repository that had it. Gone ones await nothing any more. The document of a deleted manifest cannot be
asked for: it is gone when a blob that was let go of no earlier is, because a collection takes
everything that nobody needs at its moment.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import msgspec

from ledger import garbage, outbox, workspaces
from ledger.garbage import Awaiting, Counts, Places
from ledger.outbox import QuotaEvent
from quota.metrics import QuotaMetrics
from registry.client import RegistryClient
from registry.errors import NotFound, RegistryDenied, RegistryError
from runtime.errors import text_of
from runtime.lifecycle import STOP_DEADLINE, end
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool, retry_conflicts
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

_CHUNK = 500
_AT_ONCE = 16
"""Requests under way."""

Found = Literal["collected", "present", "unknown"]


class _Stop(Exception):  # noqa: N818 - ends a verification, for a reason that a person has to mend
    """Asking on makes no sense; the message says why."""


class GarbageCollection:
    """Verifies collections; one at a time, whoever asks."""

    def __init__(
        self,
        pool: Pool,
        client: RegistryClient,
        *,
        clock: Callable[[], datetime],
        metrics: QuotaMetrics,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._client = client
        self._clock = clock
        self._metrics = metrics
        self._new_id = new_id
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, workspace: str | None) -> dict[str, Any]:
        """Begin to verify one workspace or all; it goes on behind.

        Raises AlreadyVerifyingError, LookupError for a workspace that is not known.
        """
        identifier = self._new_id()
        async with self._pool.acquire() as connection, connection.transaction():
            names = await garbage.workspaces(connection, workspace)
            if workspace is not None and not names:
                raise LookupError(workspace)
            await garbage.begin(connection, identifier, workspace, now=self._clock())
            begun = await garbage.verification(connection, identifier)
        task = asyncio.create_task(self._run(identifier, workspace, names))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return begun or {}

    async def finish(self) -> None:
        """End what is running (at shutdown); what was verified so far is kept."""
        await end(self._tasks, putting_away=STOP_DEADLINE)

    async def list(self, limit: int, *, before: UUID | None = None) -> list[dict[str, Any]]:
        """Verifications, newest first; those that began before one of them."""
        async with self._pool.acquire() as connection:
            return await garbage.verifications(connection, limit, before=before)

    async def get(self, identifier: UUID) -> dict[str, Any] | None:
        """One of them, while it runs or afterwards."""
        async with self._pool.acquire() as connection:
            return await garbage.verification(connection, identifier)

    async def _run(self, identifier: UUID, workspace: str | None, names: dict[int, str]) -> None:
        job = _Verification(self._client, names)
        message: str | None = None
        try:
            await self._verify(identifier, workspace, names, job)
        except _Stop as stop:
            message = str(stop)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            message = f"the database did not answer: {text_of(error)}"
            log.warning("gc_verification_stopped", reason=message)
        except Exception as error:
            log.exception("gc_verification_failed")
            message = f"{type(error).__name__} on our side, see the log"
        try:
            await retry_conflicts(lambda: self._close(identifier, job, message))
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.warning("gc_verification_not_recorded", reason=type(error).__name__)

    async def _verify(
        self, identifier: UUID, workspace: str | None, names: dict[int, str], job: "_Verification"
    ) -> None:
        only = next(iter(names)) if workspace is not None else None
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            awaited = await garbage.awaiting(connection, only)
            until = self._clock()
            places = await garbage.places(connection, DEFAULT_REGISTRY, awaited)
        job.predict(awaited, places)
        for begin in range(0, len(job.askable), _CHUNK):
            gone = await job.ask(job.askable[begin : begin + _CHUNK])
            await self._record(identifier, job, gone, until)
        await self._record(identifier, job, job.documents_gone(), until)

    async def _record(
        self, identifier: UUID, job: "_Verification", gone: Sequence[bytes], until: datetime
    ) -> None:
        async def attempt() -> None:
            async with self._pool.acquire() as connection, connection.transaction():
                await garbage.collected(connection, gone, until=until)
                await garbage.progress(connection, identifier, job.total(), now=self._clock())

        await retry_conflicts(attempt)

    async def _close(self, identifier: UUID, job: "_Verification", message: str | None) -> None:
        job.leave_unknown()
        total, now = job.total(), self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            by_workspace: dict[str, Counts] = {}
            for workspace_id, counts in sorted(job.counts.items()):
                name = job.names[workspace_id]
                by_workspace[name] = counts
                # Events of a workspace are written in order, under its lock; locks in order of id.
                await workspaces.lock_workspace(connection, name)
                awaits = await garbage.awaiting_bytes(connection, workspace_id)
                data = {
                    "verification_id": str(identifier),
                    **msgspec.structs.asdict(counts),
                    "awaiting_gc_bytes": awaits,
                }
                event = QuotaEvent(workspace_id, name, outbox.GC_VERIFIED, data)
                await outbox.add_events(connection, [event], now=now, new_id=self._new_id)
            await garbage.finish(
                connection, identifier, total, by_workspace, message=message, now=now
            )
        for outcome in ("predicted", "collected", "present", "unknown"):
            self._metrics.gc_bytes.labels(outcome).inc(getattr(total, f"{outcome}_bytes"))


class _Verification:
    """One verification: what was predicted, what is known of it by now."""

    def __init__(self, client: RegistryClient, names: dict[int, str]) -> None:
        self._client = client
        self.names = names
        self.counts: dict[int, Counts] = {}
        """By workspace id; only those from which something awaits."""
        self.askable: list[tuple[Awaiting, str]] = []
        self._documents: list[Awaiting] = []
        self._newest_gone: datetime | None = None

    def predict(self, awaited: list[Awaiting], places: Places) -> None:
        """Begin with what awaits collection."""
        for item in awaited:
            if item.workspace_id not in self.names:
                continue  # it appeared a moment ago
            counts = self.counts.setdefault(item.workspace_id, Counts())
            counts.predicted += 1
            counts.predicted_bytes += item.size
            repository = places.blobs.get(item.digest)
            if item.digest in places.documents:
                self._documents.append(item)
            elif repository is not None:
                self.askable.append((item, repository))

    async def ask(self, chunk: list[tuple[Awaiting, str]]) -> list[bytes]:
        """HEAD each of them; returns those that are gone. Raises _Stop."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def ask(item: Awaiting, repository: str) -> tuple[Found, str]:
            async with slots:
                try:
                    await self._client.head_blob(repository, item.digest)
                except NotFound:
                    return "collected", ""
                except RegistryDenied as error:
                    raise _Stop(f"the registry refuses us: {error}") from error
                except RegistryError as error:
                    return "unknown", str(error)
                return "present", ""

        found = await asyncio.gather(*(ask(*pair) for pair in chunk), return_exceptions=True)
        gone, reason = [], ""
        for (item, _repository), outcome in zip(chunk, found, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            what, why = outcome
            if what == "unknown":
                reason = why
                continue
            self._count(item, what)
            if what == "collected":
                gone.append(item.digest)
                if self._newest_gone is None or item.released_at > self._newest_gone:
                    self._newest_gone = item.released_at
        if reason and all(
            not isinstance(one, BaseException) and one[0] == "unknown" for one in found
        ):
            raise _Stop(f"the registry does not answer: {reason}")
        return gone

    def documents_gone(self) -> list[bytes]:
        """Documents of manifests that went no later than a blob that is gone."""
        gone = []
        for item in self._documents:
            if self._newest_gone is not None and item.released_at <= self._newest_gone:
                self._count(item, "collected")
                gone.append(item.digest)
        return gone

    def leave_unknown(self) -> None:
        """What nothing was found out about stays as it was: awaiting."""
        for counts in self.counts.values():
            counts.unknown = counts.predicted - counts.collected - counts.present
            counts.unknown_bytes = (
                counts.predicted_bytes - counts.collected_bytes - counts.present_bytes
            )

    def total(self) -> Counts:
        """Over all workspaces."""
        total = Counts()
        for counts in self.counts.values():
            for name in Counts.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
        return total

    def _count(self, item: Awaiting, what: Found) -> None:
        counts = self.counts[item.workspace_id]
        setattr(counts, what, getattr(counts, what) + 1)
        size = f"{what}_bytes"
        setattr(counts, size, getattr(counts, size) + item.size)
