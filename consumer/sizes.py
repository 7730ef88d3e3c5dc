"""What no event told, a size or an artifact's type: the manifest is fetched by digest, off the hot path.

Until then it is *size pending*: its document counts, its layers are unknown, the partition does not
wait. A failure is tried again later, ever more rarely, and never becomes a 0. What an earlier release
read by other rules is read again, a few at a time, while nothing is pending.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

import asyncpg
import msgspec

from consumer.metrics import ConsumerMetrics
from ledger import reading, statements
from ledger.contents import RULES, content_of_manifest, undeclared
from ledger.facts import BlobStored, Content, ContentLearned, Fact
from ledger.reading import PendingManifest
from ledger.record import Recorder
from registry.client import RegistryClient
from registry.errors import RegistryError
from registry.manifests import ManifestError, parse_manifest
from registry.names import format_digest
from runtime.lifecycle import Stopping
from runtime.logs import get_logger
from runtime.postgres import UNAVAILABLE, Pool
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

_AT_ONCE = 200
_AGAIN_AT_ONCE = 50
"""Manifests that are read again in one go: after an upgrade all of them, over hours if need be."""
_POLL_SECONDS = 2.0
_FIRST_WAIT = timedelta(seconds=2)
_LONGEST_WAIT = timedelta(hours=1)
_CACHED = 10_000


class Described(msgspec.Struct, frozen=True):
    """A manifest document, read."""

    media_type: str
    size: int
    content: Content


class Unread(msgspec.Struct, frozen=True):
    """A manifest could not be read."""

    reason: str
    later: bool
    """Whether it may be readable another time, without anybody doing anything."""


class SizeResolver:
    """Fetches what is pending until it is asked to stop."""

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
        self._wanted = asyncio.Event()
        self._known: OrderedDict[bytes, Described] = OrderedDict()

    def wake(self) -> None:
        """Something became pending just now."""
        self._wanted.set()

    async def run(self) -> None:
        """Resolve what is due, then wait for more."""
        while not self._stopping.is_set():
            try:
                tried = await self.resolve_due()
                more = tried == _AT_ONCE
                if not tried:
                    await self.read_again()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.warning("sizes_interrupted", reason=f"{type(error).__name__}: {error}")
                more = False
            if not more:
                await self._sleep()

    async def _sleep(self) -> None:
        waits = [
            asyncio.ensure_future(self._wanted.wait()),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        await asyncio.wait(waits, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._wanted.clear()

    async def resolve_due(self) -> int:
        """Fetch the manifests whose turn has come; returns how many were tried."""
        async with self._pool.acquire() as connection:
            due = await reading.pending_manifests(
                connection, registry=DEFAULT_REGISTRY, now=self._clock(), limit=_AT_ONCE
            )
            self._metrics.pending.set(await reading.count_pending(connection))
            # Sizes first: these are known of an artifact, only what it is is not.
            due += await reading.unread_artifacts(
                connection,
                registry=DEFAULT_REGISTRY,
                now=self._clock(),
                limit=_AT_ONCE - len(due),
            )
        if not due:
            return 0
        # The client itself bounds how many requests are open.
        answers = await asyncio.gather(*(self._describe(item) for item in due))
        facts: list[Fact] = []
        postponed: list[PendingManifest] = []
        for item, answer in zip(due, answers, strict=True):
            if isinstance(answer, Unread):
                if item.size_known:
                    log.info("kind_still_unknown", **_told(item, answer))
                else:
                    log.info("size_still_pending", **_told(item, answer))
                postponed.append(item)
            else:
                facts += _facts(item, *answer)
        if facts:
            await self._recorder.record(facts, now=self._clock(), source="sizes")
        await self._postpone(postponed)
        return len(due)

    async def read_again(self) -> int:
        """Read manifests that an earlier release has read; returns how many were tried."""
        async with self._pool.acquire() as connection:
            before = await reading.read_before(
                connection, registry=DEFAULT_REGISTRY, now=self._clock(), limit=_AGAIN_AT_ONCE
            )
        answers = await asyncio.gather(*(self._describe(item) for item, _known in before))
        facts: list[Fact] = []
        settled: list[PendingManifest] = []
        postponed: list[PendingManifest] = []
        for (item, known), answer in zip(before, answers, strict=True):
            if isinstance(answer, Unread):
                log.info("manifest_not_read_again", **_told(item, answer))
                (postponed if answer.later else settled).append(item)
            elif _same(answer[0].content, known):
                settled.append(item)  # nothing new is told, and nothing is recorded
            else:
                facts += _facts(item, *answer)
        if facts:
            await self._recorder.record(facts, now=self._clock(), source="sizes")
        if settled:
            await self._pool.execute(
                statements.MARK_READ,
                [item.repository_id for item in settled],
                [item.digest for item in settled],
                RULES,
            )
        await self._postpone(postponed)
        return len(before)

    async def _describe(self, item: PendingManifest) -> tuple[Described, dict[bytes, int]] | Unread:
        if (known := self._known.get(item.digest)) is not None:
            return known, {}
        stored: dict[bytes, int] = {}
        try:
            fetched = await self._client.get_manifest(item.repository, item.digest)
            parsed = parse_manifest(fetched.body, fetched.media_type, item.media_type)
            for digest in undeclared(parsed):
                size = await self._client.head_blob(item.repository, digest)
                if size is not None:
                    stored[digest] = size
        except (RegistryError, ManifestError) as error:
            return Unread(str(error), isinstance(error, RegistryError) and error.retriable)
        content = content_of_manifest(parsed, stored)
        if content is None:
            return Unread(
                f"{fetched.media_type or 'its media type'} is not understood", later=False
            )
        described = Described(parsed.media_type, len(fetched.body), content)
        self._known[item.digest] = described
        if len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return described, stored

    async def _postpone(self, items: list[PendingManifest]) -> None:
        if not items:
            return
        now = self._clock()
        await self._pool.execute(
            statements.POSTPONE_FETCH,
            [item.repository_id for item in items],
            [item.digest for item in items],
            [min(item.attempts + 1, 1000) for item in items],
            [now + wait_before(item.attempts) for item in items],
        )


def _told(item: PendingManifest, unread: Unread) -> dict[str, object]:
    return {
        "repository": item.repository,
        "digest": format_digest(item.digest),
        "attempts": item.attempts + 1,
        "reason": unread.reason,
    }


def _facts(item: PendingManifest, described: Described, stored: dict[bytes, int]) -> list[Fact]:
    learned = ContentLearned(
        DEFAULT_REGISTRY,
        item.repository,
        item.digest,
        described.media_type,
        described.size,
        described.content,
    )
    return [*(BlobStored(digest, size) for digest, size in stored.items()), learned]


def _same(new: Content, known: Content) -> bool:
    """Whether a document says what is known, apart from that it was the document itself that was read."""
    return msgspec.structs.replace(new, subject_known=known.subject_known, rules=0) == known


def wait_before(attempts: int) -> timedelta:
    """How long to leave a manifest alone after `attempts` earlier failures."""
    factor: int = 2 ** min(attempts, 20)
    return min(_FIRST_WAIT * factor, _LONGEST_WAIT)
