"""A race that was lost is repaired: DELETE is unconditional in every registry.

A push that the plan did not know may have landed before our DELETE, and an index that needs what was
deleted may have been pushed meanwhile. Both show afterwards: the registry's events tell the push, and
its clock tells whether the DELETE came later. The kept bytes are put back at once.
"""

from collections.abc import Sequence
from datetime import timedelta

from prometheus_client import Counter

from ledger import undo
from ledger.runs import Item
from ledger.undo import Kept
from quota.deleting import Tools
from quota.put_back import GoneError, missing_of, put_back, with_what_it_needs
from registry.errors import RegistryError
from registry.names import format_digest
from runtime.logs import get_logger

log = get_logger(__name__)

LOOK_BACK = timedelta(hours=1)
"""Deletions as old as this are looked at in every sweep,"""
LOOK_FAR_BACK = timedelta(days=7)
"""and older ones now and then: a registry's events may have waited while the receiver was away."""


class Repairer:
    """Finds deletions that hit a push, and puts back what they took. One per process."""

    def __init__(self, tools: Tools, put_back_total: Counter) -> None:
        self._tools = tools
        self._put_back_total = put_back_total
        # (run, position, tags): looked at and found to be whole.
        self._whole: set[tuple[object, ...]] = set()

    async def sweep(self, look_back: timedelta = LOOK_BACK) -> int:
        """Repair what can be; returns how many manifests were put back."""
        since = self._tools.clock() - look_back
        async with self._tools.pool.acquire() as connection:
            hit = await undo.hit_pushes(connection, since)
            # Children first: an index is taken only when they are there.
            found = {
                (kept.run_id, kept.recorded.item.position): kept
                for kept in [*await undo.needed_again(connection, since), *hit]
            }
        return sum([await self._repair(kept) for kept in found.values()])

    async def _repair(self, kept: Kept) -> int:
        """Put a manifest back, with its children and what refers to it."""
        item = kept.recorded.item
        async with self._tools.pool.acquire() as connection:
            tags = await undo.pushed_tags(
                connection,
                item.repository_id,
                item.digest,
                after_ns=item.push_ns,
                gone_ns=kept.gone_ns,
            )
        key = (kept.run_id, item.position, *tags)
        if key in self._whole:
            return 0
        async with self._tools.pool.acquire() as connection:
            # What belongs to it may have gone with another image, as the last that held it.
            gone = await undo.kept_of_run(connection, None, kept.run_id)
        done = 0
        try:
            for member in reversed(with_what_it_needs(gone, {item.key})):
                wanted = tags if member.recorded.item.key == item.key else member.recorded.item.tags
                done += await self._put(member, wanted)
        except (RegistryError, GoneError) as error:
            log.warning("not_put_back", **_about(item), reason=str(error))
        else:
            self._whole.add(key)
        return done

    async def _put(self, kept: Kept, tags: Sequence[str]) -> bool:
        """Put one manifest back where it or a tag of it answers nothing. False: all is there."""
        item, client = kept.recorded.item, self._tools.client
        gone = []
        for tag in tags:
            # A tag that names another image was moved since: that push was the later one.
            state = await client.tag_digest(item.repository, tag, item.digest)
            if state.digest is None:
                gone.append(tag)
        if not gone and (await client.head_manifest(item.repository, item.digest)).exists:
            return False
        missing = await missing_of(self._tools, kept)
        if missing:
            log.warning("not_put_back", **_about(item), missing=len(missing))
            return False
        note = "put back: it was pushed again, or an index that needs it was"
        await put_back(self._tools, kept, gone, source="repair", note=note)
        self._put_back_total.inc()
        log.warning("put_back_after_a_race", **_about(item), tags=gone)
        return True


def _about(item: Item) -> dict[str, str]:
    return {"repository": item.repository, "digest": format_digest(item.digest)}
