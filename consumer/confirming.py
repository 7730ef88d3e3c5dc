"""Sizes that manifests only declare: storage is asked once, in the background.

What a tenant declares is not to be trusted. A blob's push event tells its true size and needs no
question; where none came, a HEAD of the blob does. What manifests only name (layers with `urls`, entries
of an index that are no manifest that we know) counts when such an answer finds it, and after a 404 it
does not, until an event or a pass of reconciliation says otherwise. What an event told of a size, and
manifests or another word contradict, is asked about in the same way, wherever it is held. Low priority: few requests, late, with back-off.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import asyncpg

from consumer.metrics import ConsumerMetrics
from ledger import checks
from ledger.checks import UnconfirmedBlob
from ledger.facts import BlobStored
from ledger.record import Recorder
from quota.asking import ask_storage
from quota.looking import each
from registry.client import RegistryClient
from registry.errors import RegistryError
from registry.names import format_digest
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

AT_ONCE = 4
"""Requests open at a time; the worker's client is made with this limit."""
_PART = 200
"""Blobs asked for in one go; what they tell is recorded in one transaction."""
_POLL_SECONDS = 2.0
_LEASE = timedelta(minutes=10)
_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=6)
_MOST_ATTEMPTS = 20


class _Later:
    """Storage could not be asked."""


_LATER = _Later()


class SizeConfirmer:
    """Confirms declared sizes until it is asked to stop."""

    def __init__(
        self,
        *,
        pool: Pool,
        recorder: Recorder,
        client: RegistryClient,
        metrics: ConsumerMetrics,
        stopping: Stopping,
        clock: Callable[[], datetime],
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._client = client
        self._metrics = metrics
        self._stopping = stopping
        self._clock = clock

    async def run(self) -> None:
        """Confirm what is due, then wait for more."""
        while not self._stopping.is_set():
            try:
                more = await self.confirm_due()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("confirming_interrupted", reason=f"{type(error).__name__}: {error}")
                more = False
            if not more:
                await self._stopping.sleep(_POLL_SECONDS)

    async def confirm_due(self) -> bool:
        """Do one check whose turn has come; False when none has, or storage does not answer.

        A check may name thousands of blobs: while storage answers for none of the first, the others are
        not asked for either.
        """
        async with self._pool.acquire() as connection:
            check = await checks.take_size_check(connection, now=self._clock(), lease=_LEASE)
            if check is None:
                return False
            blobs, known = await checks.unconfirmed(connection, DEFAULT_REGISTRY, check.manifests)
            blobs += await checks.doubted(connection, DEFAULT_REGISTRY, check.manifests)
        await self._learn(
            [BlobStored(digest, size, DEFAULT_REGISTRY) for digest, size in sorted(known.items())]
        )
        failed: list[UnconfirmedBlob] = []
        asked, away = 0, False
        while asked < len(blobs) and not away:
            if self._stopping.is_set():
                return False  # the lease runs out, and what is confirmed is not asked again
            part = blobs[asked : asked + (_PART if asked else AT_ONCE)]
            asked += len(part)
            answers = await each(part, self._ask)
            later = [blob for blob, answer in answers if isinstance(answer, _Later)]
            failed += later
            away = len(later) == len(part)
            await self._learn([answer for _, answer in answers if isinstance(answer, BlobStored)])
        failed += blobs[asked:]
        if check.attempts + 1 >= _MOST_ATTEMPTS:
            failed = []
        async with self._pool.acquire() as connection, connection.transaction():
            await checks.finish_size_check(
                connection,
                check,
                ((blob.repository_id, blob.manifest) for blob in failed),
                due_at=self._clock() + wait_before(check.attempts),
            )
        return not away

    async def _learn(self, facts: list[BlobStored]) -> None:
        if facts:
            await self._recorder.record(facts, now=self._clock(), source="sizes")

    async def _ask(self, blob: UnconfirmedBlob) -> BlobStored | _Later | None:
        """What storage says; None when it does not tell or has no such blob, and what was said stays."""
        try:
            answer = await ask_storage(
                self._client, blob.repositories, blob.digest, or_manifest=blob.doubted
            )
        except RegistryError as error:
            self._metrics.size_checks.labels("failed").inc()
            log.info(
                "size_not_confirmed",
                repository=blob.repositories[0],
                digest=format_digest(blob.digest),
                reason=str(error),
            )
            return _LATER if error.retriable else None
        self._metrics.size_checks.labels("untold" if answer is None else "confirmed").inc()
        if blob.doubted and answer is not None:
            log.info(
                "size_settled",
                repository=blob.repositories[0],
                digest=format_digest(blob.digest),
                size=answer.size,
            )
        return answer


def wait_before(attempts: int) -> timedelta:
    """How long to leave a check alone after `attempts` earlier failures."""
    factor: int = 2 ** min(attempts, 20)
    return min(_FIRST_WAIT * factor, _LONGEST_WAIT)
