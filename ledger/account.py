"""Moves reference counts and usage in the database: `counting.py` decides, this loads and saves.

Called under the row locks of the workspaces concerned, within the caller's transaction.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import chain
from typing import Final, Protocol, TypeVar

from ledger import outbox, statements, store
from ledger.counting import Change, Holding, count, learn_size
from ledger.facts import names_only
from ledger.outbox import QuotaEvent
from ledger.packing import unpack_blobs
from ledger.words import Word
from registry.names import format_digest
from runtime.postgres import Connection

ASK_AFTER: Final = timedelta(seconds=1)
"""What somebody tells of a size, and others contradict, is asked about after this."""


class Account(Protocol):
    """A workspace whose row is locked."""

    id: int
    name: str
    usage_bytes: int


AnyAccount = TypeVar("AnyAccount", bound=Account)


class RetakeError(Exception):
    """The locks taken were not the right ones: roll back and begin again with these."""

    def __init__(self, also: set[int]) -> None:
        super().__init__(f"workspaces {sorted(also)} are needed too")
        self.also = also


async def move(
    connection: Connection,
    workspaces: Mapping[int, AnyAccount],
    changes: Mapping[int, Change],
    stored: Mapping[bytes, Word],
    now: datetime,
) -> list[QuotaEvent]:
    """Apply changes (by workspace id) and what storage said; sets the workspaces' usage.

    Manifests are already saved as they will be. Returns what is to be said about wrong sizes.
    Raises RetakeError when other workspaces hold something of another size than storage says.
    """
    news = await _news(connection, stored)
    await store.lock_digests(
        connection, chain.from_iterable(change.refs for change in changes.values()), news
    )
    await store.save_stored(connection, news)
    holdings, truths = await store.load_holdings(
        connection, {workspace_id: change.refs for workspace_id, change in changes.items()}
    )
    truths |= await store.load_stored(connection, news)
    touched, events, doubted = await _correct(
        connection, workspaces, {digest: truths[digest] for digest in news}
    )
    for workspace_id, change in sorted(changes.items()):
        workspace = workspaces[workspace_id]
        known = touched[workspace_id] = {
            **holdings.get(workspace_id, {}),
            **touched.get(workspace_id, {}),
        }
        counted = count(known, change, truths)
        workspace.usage_bytes += counted.usage_delta
        for digest in counted.recount:
            workspace.usage_bytes += await _recount(connection, workspace_id, digest, known[digest])
        events += [
            _mismatch(workspace, item.digest, item.declared, item.stored)
            for item in counted.mismatches
        ]
        doubted.update(item.digest for item in counted.mismatches)
        doubted.update(counted.doubted)
    await store.save_holdings(connection, touched, now)
    if doubted:
        told = await store.told_only(connection, doubted)
        await store.add_size_check(connection, [(0, digest) for digest in told], now + ASK_AFTER)
    return events


async def _news(connection: Connection, stored: Mapping[bytes, Word]) -> dict[bytes, Word]:
    """What counts for more than what is known: whoever holds the rest knows it."""
    known = await store.load_words(connection, stored)
    return {
        digest: word
        for digest, word in stored.items()
        if digest not in known or word > known[digest]
    }


async def _correct(
    connection: Connection, workspaces: Mapping[int, AnyAccount], stored: Mapping[bytes, int]
) -> tuple[dict[int, dict[bytes, Holding]], list[QuotaEvent], set[bytes]]:
    """Give storage's word to whoever holds the digest already; and which of them knew otherwise."""
    touched: dict[int, dict[bytes, Holding]] = {}
    events: list[QuotaEvent] = []
    doubted: set[bytes] = set()
    if not stored:
        return touched, events, doubted
    holders = await store.load_holders(connection, stored)
    wrong = {
        workspace_id
        for workspace_id, holdings in holders.items()
        if workspace_id not in workspaces
        and any(
            holding.size != stored[digest] or holding.names for digest, holding in holdings.items()
        )
    }
    if wrong:
        # Storage contradicts what another workspace declared, or has what one only named: its usage
        # changes, too.
        raise RetakeError(wrong)
    for workspace_id in holders.keys() & workspaces.keys():
        workspace = workspaces[workspace_id]
        for digest, holding in holders[workspace_id].items():
            if holding.stored and holding.size == stored[digest] and not holding.names:
                continue
            if holding.size != stored[digest] and holding.holders > 0:
                events.append(_mismatch(workspace, digest, holding.size, stored[digest]))
                doubted.add(digest)
            workspace.usage_bytes += learn_size(holding, stored[digest])
            touched.setdefault(workspace_id, {})[digest] = holding
    return touched, events, doubted


async def _recount(
    connection: Connection, workspace_id: int, digest: bytes, holding: Holding
) -> int:
    """Seek the size again among what remains; returns the change of usage in bytes."""
    before = holding.counted
    stored = await store.load_stored(connection, [digest])
    size = stored.get(digest)
    if size is None:
        size = await connection.fetchval(statements.DOCUMENT_SIZE, workspace_id, digest)
    if size is not None:
        holding.size, holding.stored, holding.mixed = size, True, False
    else:
        rows = await connection.fetch(statements.DECLARING_MANIFESTS, workspace_id, digest)
        sizes = _declared((row["blobs"] for row in rows), digest)
        holding.size, holding.stored, holding.mixed = max(sizes), False, len(sizes) > 1
    return holding.counted - before


def _declared(packed: Iterable[bytes], digest: bytes) -> set[int]:
    return {
        size
        for blobs in packed
        for member, size in unpack_blobs(blobs)
        if member == digest and not names_only(member, size)
    } or {0}


def _mismatch(workspace: Account, digest: bytes, declared: int, stored: int) -> QuotaEvent:
    return QuotaEvent(
        workspace.id,
        workspace.name,
        outbox.SIZE_MISMATCH,
        {"digest": format_digest(digest), "declared_bytes": declared, "stored_bytes": stored},
    )
