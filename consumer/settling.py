"""The settling check: when a tag was set twice within seconds, the registry says which set holds.

Events cannot tell: a registry announces a push before it writes the tag, so that of two pushers at
one moment either may win. A little later a quiet conditional HEAD asks. Only a 200 with another
digest corrects; a 404 or an error changes nothing.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from consumer.metrics import ConsumerMetrics
from ledger import checks
from ledger.checks import TagCheck
from ledger.facts import Fact
from ledger.record import Recorder
from quota.looking import each, look_at, require_date, seen, stamp_of
from registry.client import RegistryClient
from registry.errors import RegistryError
from registry.manifests import ManifestError
from registry.names import format_digest
from registry.timestamps import to_ns
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

_AT_ONCE = 100
_POLL_SECONDS = 0.5
_LEASE = timedelta(seconds=60)
_MOST_ATTEMPTS = 6


class SettlingWorker:
    """Asks about tags whose turn has come until it is asked to stop."""

    def __init__(
        self,
        *,
        pool: Pool,
        recorder: Recorder,
        client: RegistryClient,
        metrics: ConsumerMetrics,
        stopping: Stopping,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._client = client
        self._metrics = metrics
        self._stopping = stopping
        self._clock = clock
        self._new_id = new_id

    async def run(self) -> None:
        """Settle what is due, then wait for more."""
        while not self._stopping.is_set():
            try:
                more = await self.settle_due() == _AT_ONCE
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("settling_interrupted", reason=f"{type(error).__name__}: {error}")
                more = False
            if not more:
                await self._stopping.sleep(_POLL_SECONDS)

    async def settle_due(self) -> int:
        """Ask about the tags whose turn has come; returns how many."""
        async with self._pool.acquire() as connection:
            due = await checks.take_tag_checks(
                connection, DEFAULT_REGISTRY, now=self._clock(), lease=_LEASE, limit=_AT_ONCE
            )
        answers = await each(due, self._ask)
        facts = [fact for _check, answer in answers if answer is not None for fact in answer]
        if facts:
            await self._recorder.record(facts, now=self._clock(), source="settling")
        async with self._pool.acquire() as connection, connection.transaction():
            for check, answer in sorted(
                answers, key=lambda item: (item[0].repository_id, item[0].tag)
            ):
                self._metrics.tag_checks.labels(_outcome(answer)).inc()
                if answer is not None or check.attempts + 1 >= _MOST_ATTEMPTS:
                    await checks.finish_tag_check(connection, check)
                else:
                    due_at = self._clock() + wait_before(check.attempts)
                    await checks.postpone_tag_check(connection, check, due_at)
        return len(due)

    async def _ask(self, check: TagCheck) -> list[Fact] | None:
        """What corrects the ledger (nothing, when it is right); None when that is not clear yet."""
        try:
            state = await self._client.tag_digest(check.repository, check.tag, check.digest)
            if state.digest is None:
                return None
            # The registry's Date has whole seconds. Only one in a later second than the newest set
            # orders what we see behind the sets that raced, and before any push that follows.
            date = require_date(state.date)
            if to_ns(date) <= check.set_ns:
                return None
            if state.digest == check.digest:
                return []
            look = look_at(await self._client.get_manifest(check.repository, state.digest))
        except (RegistryError, ManifestError) as error:
            log.info(
                "tag_not_settled", repository=check.repository, tag=check.tag, reason=str(error)
            )
            return None
        log.info(
            "tag_settled",
            repository=check.repository,
            tag=check.tag,
            digest=format_digest(state.digest),
        )
        return [seen(check.repository, look, stamp_of(date, self._new_id), tag=check.tag)]


def _outcome(answer: list[Fact] | None) -> str:
    if answer is None:
        return "unclear"
    return "corrected" if answer else "right"


def wait_before(attempts: int) -> timedelta:
    """How long to wait after `attempts` earlier questions without a clear answer: 1 s and doubling."""
    factor: int = 2 ** min(attempts, 10)
    return timedelta(seconds=factor)
