"""Deletions that no answer came to (0033): the registry may have carried them out, or may yet.

Their run says `failed`, and goes on. The registry is asked again at the end of the run's round, by
whoever takes the run over, and in the background, until it says that the manifest is gone (then it
counts as deleted, with what that freed, and a push that it hit is repaired as after any race) or
until the DELETE is too old to be carried out.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from ledger import late as rows
from ledger import reading, runs, store
from ledger.contents import content_of_manifest
from ledger.facts import names_only
from ledger.late import Late
from ledger.record import Recorded
from quota.deleting import SECOND_NS, Tools, own_delete
from quota.metrics import QuotaMetrics
from quota.put_back import parsed_of
from registry.errors import RegistryError
from registry.timestamps import to_ns
from runtime.logs import get_logger
from runtime.postgres import Connection

log = get_logger(__name__)

LATEST: Final = timedelta(minutes=10)
"""After this a DELETE is not carried out any more: no proxy and no storage holds a request so long."""
_PATIENCE_SECONDS = 5.0
"""For one question in the background, which has more to do."""
_MOST_WAIT_SECONDS = 60.0


async def settle_run(tools: Tools, run_id: UUID) -> list[tuple[Late, int]]:
    """What of a run was carried out although no answer came, each with the bytes that it freed.

    A registry that is away tells nothing: its manifests are asked for later.
    """
    async with tools.pool.acquire() as connection:
        unsure = await rows.unsure(connection, run_id)
    found = []
    for late in unsure:
        try:
            freed = await _settle(tools, late)
        except RegistryError as error:
            log.info("deletion_still_unsure", run=str(run_id), reason=str(error))
            break
        if freed is not None:
            found.append((late, freed))
    return found


class LateDeletions:
    """Asks for what runs that have ended left open. One per process."""

    def __init__(self, tools: Tools, metrics: QuotaMetrics) -> None:
        self._tools = tools
        self._metrics = metrics
        self._asked: dict[tuple[UUID, int], datetime] = {}

    async def sweep(self) -> int:
        """Ask where it is time to; returns how many turned out to be deleted."""
        async with self._tools.pool.acquire() as connection:
            unsure = await rows.unsure(connection)
        open_now = {(late.kept.run_id, late.kept.recorded.item.position): late for late in unsure}
        self._asked = {key: at for key, at in self._asked.items() if key in open_now}
        done = 0
        for key, late in open_now.items():
            if not self._due(key, late):
                continue
            self._asked[key] = self._tools.clock()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    freed = await _settle(self._tools, late)
            except (RegistryError, TimeoutError) as error:
                log.info("deletion_still_unsure", run=str(key[0]), reason=str(error))
                break  # it is away: the others can wait, too
            if freed is not None:
                done += 1
                self._metrics.freed_bytes.inc(freed)
                self._metrics.images.labels("deleted").inc()
        return done

    def _due(self, key: tuple[UUID, int], late: Late) -> bool:
        """At once when the ledger was told of a delete; else the less often the longer ago it is."""
        asked = self._asked.get(key)
        if asked is None or late.told:
            return True
        wait = min((asked - late.done_at).total_seconds() / 2, _MOST_WAIT_SECONDS)
        return (self._tools.clock() - asked).total_seconds() >= wait


async def _settle(tools: Tools, late: Late) -> int | None:
    """The bytes that a deletion freed; None when the manifest stays, or may go yet."""
    item = late.kept.recorded.item
    latest = late.done_at + LATEST
    if late.told and late.delete_ns > to_ns(latest):
        await _stays(tools, late)  # somebody else's
        return None
    if late.told:
        return await _count(tools, late, late.delete_ns)
    head = await tools.client.head_manifest(item.repository, item.digest)
    now = tools.clock() if head.date is None else head.date
    if not head.exists:
        return await _count(tools, late, to_ns(now) + SECOND_NS)
    if now > latest:
        await _stays(tools, late)
    return None


async def _stays(tools: Tools, late: Late) -> None:
    async with tools.pool.acquire() as connection:
        await rows.stays(connection, late.kept.run_id, late.kept.recorded.item.position)


async def _count(tools: Tools, late: Late, gone_ns: int) -> int:
    """Ledger and audit in one transaction, as after any DELETE."""
    item, now = late.kept.recorded.item, tools.clock()
    facts = own_delete(item, now, tools.new_id)
    freed = 0

    async def audit(connection: Connection, recorded: Recorded) -> None:
        nonlocal freed
        freed = await _freed(connection, late, recorded)
        await runs.finish_item(
            connection,
            late.kept.run_id,
            item.position,
            state="deleted",
            freed_bytes=freed,
            gone_ns=gone_ns,
            now=now,
        )
        await rows.recount_run(connection, late.kept.run_id)

    await tools.recorder.record(facts, now=now, source="cleanup", within=audit)
    log.warning("deleted_without_an_answer", repository=item.repository, freed_bytes=freed)
    return freed


async def _freed(connection: Connection, late: Late, recorded: Recorded) -> int:
    """What the account fell by, now or when the registry's event told of the delete."""
    item = late.kept.recorded.item
    if (item.repository_id, item.digest) in recorded.gone:
        return recorded.freed(late.workspace_id)
    if late.told and late.present:
        return late.unsure_bytes  # it fell, and has grown again by a push since
    parsed = parsed_of(late.kept)
    content = None if parsed is None else content_of_manifest(parsed)
    blobs = () if content is None else content.blobs
    told = await store.load_stored(connection, (d for d, size in blobs if names_only(d, size)))
    digests = {item.digest, *(d for d, size in blobs if d in told or not names_only(d, size))}
    held = await reading.held(connection, late.workspace_id, digests)
    return sum(entry.size for entry in held.values() if entry.refs == 0)
