"""Settling checks: what events cannot tell, the registry is asked a little later.

When a tag was set twice within seconds: a registry announces a push before it writes the tag, so that of
two pushers at one moment either may win. A quiet conditional HEAD asks. Only a 200 with another digest
corrects; a 404 or an error changes nothing.

When an event told the delete of a digest: it may have been a blob with the manifest's bytes. A HEAD by
digest, unconditional, asks whether the manifest is there.

When events described one digest differently: its document, fetched by digest, is right in all of it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from consumer.metrics import ConsumerMetrics
from ledger import checks, store
from ledger.checks import ManifestCheck, TagCheck
from ledger.facts import NEVER, ContentLearned, Fact, ManifestDeleted, ManifestSeen
from ledger.record import Recorder
from quota.looking import answered, contradicts, each, look_at, require_date, seen, stamp_of
from registry.client import RegistryClient
from registry.errors import NotFound, RegistryError
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
"""For a tag. What became of a manifest is asked until the registry tells."""
_MOST_DOUBLINGS = 11
"""Of the wait for a manifest: 34 minutes."""


class SettlingWorker:
    """Asks about tags and manifests whose turn has come until it is asked to stop."""

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
                more = _AT_ONCE in (await self.settle_due(), await self.settle_deletes())
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
            # orders what we see behind what was in doubt, and before any push that follows.
            date = require_date(state.date)
            newest_ns = check.newest_ns
            if state.digest == check.digest:
                newest_ns = max(newest_ns, check.deleted_ns)
            above = contradicts(date, newest_ns)
            if to_ns(date) <= newest_ns and not above:
                return None
            if state.digest == check.digest and check.live:
                return []
            look = await look_at(await self._client.get_manifest(check.repository, state.digest))
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
        fact = seen(check.repository, look, stamp_of(date, self._new_id), tag=check.tag)
        return answered(fact, check.asked_ns, self._new_id) if above else [fact]

    async def settle_deletes(self) -> int:
        """Ask about the manifests whose turn has come; returns how many there were."""
        async with self._pool.acquire() as connection:
            due = await checks.take_manifest_checks(
                connection, DEFAULT_REGISTRY, now=self._clock(), lease=_LEASE, limit=_AT_ONCE
            )
        answers = await each(due, self._is_there)
        facts = [fact for _check, answer in answers if answer is not None for fact in answer]
        if facts:
            await self._recorder.record(facts, now=self._clock(), source="settling")
        back = [
            (check.repository_id, check.digest)
            for check, answer in answers
            if not check.known.present and answer and isinstance(answer[-1], ManifestSeen)
        ]
        async with self._pool.acquire() as connection, connection.transaction():
            # It was taken for gone, and its tags with it.
            tags = await store.load_tags_on(connection, back)
            await store.add_tag_checks(connection, tags, self._clock())
            for check, answer in sorted(
                answers, key=lambda item: (item[0].repository_id, item[0].digest)
            ):
                if answer is None:
                    doublings = min(check.attempts, _MOST_DOUBLINGS)
                    due_at = self._clock() + wait_before(doublings)
                    await checks.postpone_manifest_check(connection, check, due_at)
                else:
                    await checks.finish_manifest_check(connection, check)
        return len(due)

    async def _is_there(self, check: ManifestCheck) -> list[Fact] | None:
        """What the registry says of a manifest; nothing when no question is open any more.

        None when it does not tell.
        """
        known = check.known
        deleted = max(known.sure, known.heard)
        # An earlier release did not tell apart what it heard and what was certain.
        earlier = known.heard == NEVER and known.delete > known.known > NEVER
        if not known.asked_for and not earlier and known.odd is None:
            return await self._read(check)
        try:
            head = await self._client.head_manifest(check.repository, check.digest)
            # A look at the second of the delete, or before it, would not count.
            date = require_date(head.date)
        except RegistryError as error:
            self._metrics.manifest_checks.labels("unclear").inc()
            log.info(
                "delete_not_settled",
                repository=check.repository,
                digest=format_digest(check.digest),
                reason=str(error),
            )
            return None
        settled = known.present == head.exists and not known.asked_for
        # A delete that was heard was the manifest's: certain as it stands.
        confirmed = not head.exists and deleted > known.known
        against = deleted[0] if head.exists else known.known[0]
        above = contradicts(date, against)
        if not (settled or confirmed or above) and to_ns(date) <= against:
            self._metrics.manifest_checks.labels("unclear").inc()
            return None
        self._metrics.manifest_checks.labels("there" if head.exists else "gone").inc()
        if settled:
            return []
        where = (DEFAULT_REGISTRY, check.repository, check.digest)
        stamp = stamp_of(date, self._new_id)
        fact: ManifestSeen | ManifestDeleted
        if head.exists:
            fact = ManifestSeen(*where, stamp, known.media_type, known.size)
            log.info(
                "delete_was_not_of_it",
                repository=check.repository,
                digest=format_digest(check.digest),
            )
        else:
            fact = ManifestDeleted(*where, deleted if confirmed else stamp)
        return answered(fact, check.asked_ns, self._new_id) if above and not confirmed else [fact]

    async def _read(self, check: ManifestCheck) -> list[Fact] | None:
        """What a manifest is, which events told differently: its document says it. Nothing where it is known."""
        content = check.known.content
        if not check.known.present or (content is not None and content.subject_known):
            return []
        try:
            look = await look_at(await self._client.get_manifest(check.repository, check.digest))
        except NotFound:
            return []  # whether it is gone is not asked here
        except ManifestError as error:
            log.info("manifest_not_read", repository=check.repository, reason=str(error))
            return []
        except RegistryError as error:
            self._metrics.manifest_checks.labels("unclear").inc()
            log.info(
                "manifest_not_read",
                repository=check.repository,
                digest=format_digest(check.digest),
                reason=str(error),
            )
            return None
        if look.content is None:
            return []
        self._metrics.manifest_checks.labels("read").inc()
        log.info(
            "manifest_read_as_told_differently",
            repository=check.repository,
            digest=format_digest(check.digest),
        )
        where = (DEFAULT_REGISTRY, check.repository, check.digest)
        return [ContentLearned(*where, look.media_type, look.size, look.content)]


def _outcome(answer: list[Fact] | None) -> str:
    if answer is None:
        return "unclear"
    return "corrected" if answer else "right"


def wait_before(attempts: int) -> timedelta:
    """How long to wait after `attempts` earlier questions without a clear answer: 1 s and doubling."""
    factor: int = 2 ** min(attempts, 10)
    return timedelta(seconds=factor)
