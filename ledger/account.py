"""Moves reference counts and usage in the database: `counting.py` decides, this loads and saves.

Called under the row locks of the workspaces concerned, within the caller's transaction.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol, TypeVar

from ledger import outbox, statements, store
from ledger.counting import Change, Holding, count, learn_size
from ledger.outbox import QuotaEvent
from ledger.packing import unpack_blobs
from registry.names import format_digest
from runtime.postgres import Connection

_AWAITED = -1
"""Size of a row of `stored_blobs` for which storage has not spoken yet."""


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
    stored: Mapping[bytes, int],
    now: datetime,
) -> list[QuotaEvent]:
    """Apply changes (by workspace id) and sizes that storage said; sets the workspaces' usage.

    Manifests are already saved as they will be. Returns what is to be said about wrong sizes.
    Raises RetakeError when other workspaces hold something of another size than storage says.
    """
    holdings = await store.load_holdings(
        connection,
        {
            (workspace_id, digest)
            for workspace_id, change in changes.items()
            for digest in change.refs
        },
    )
    truths = await _truths(connection, holdings, changes, stored)
    touched, events = await _correct(
        connection, workspaces, {digest: truths[digest] for digest in stored}
    )
    for workspace_id, change in sorted(changes.items()):
        workspace = workspaces[workspace_id]
        known = touched.setdefault(workspace_id, {})
        for digest, holding in holdings.get(workspace_id, {}).items():
            known.setdefault(digest, holding)
        counted = count(known, change, truths)
        workspace.usage_bytes += counted.usage_delta
        change.unconfirmed = {digest for digest in change.declared if not known[digest].stored}
        for digest in counted.recount:
            workspace.usage_bytes += await _recount(connection, workspace_id, digest, known[digest])
        events += [
            _mismatch(workspace, item.digest, item.declared, item.stored)
            for item in counted.mismatches
        ]
    await store.save_holdings(connection, touched, now)
    return events


async def _truths(
    connection: Connection,
    holdings: Mapping[int, Mapping[bytes, Holding]],
    changes: Mapping[int, Change],
    stored: Mapping[bytes, int],
) -> dict[bytes, int]:
    """What storage says of the digests that a workspace is not sure of, `stored` included.

    Storage's word and a workspace's first use of the same blob may be written at the same moment by
    two transactions that lock nothing in common. So a use claims the blob's row: whichever comes
    second waits for the first and sees what it wrote.
    """
    unsure = {
        (workspace_id, digest)
        for workspace_id, change in changes.items()
        for digest in change.refs
        if not (
            (known := holdings.get(workspace_id, {}).get(digest))
            and known.stored
            and known.refs > 0
        )
    }
    truths = await store.load_stored(connection, {digest for _workspace, digest in unsure})
    claims = {
        digest
        for workspace_id, digest in unsure - _as_known(unsure, holdings, changes)
        if digest not in truths and digest in changes[workspace_id].declared
    } - stored.keys()
    # One statement for both, in order of digest: no deadlocks.
    await store.save_stored(connection, {**dict.fromkeys(claims, _AWAITED), **stored})
    return truths | await store.load_stored(connection, claims | stored.keys())


def _as_known(
    keys: set[store.HoldingKey],
    holdings: Mapping[int, Mapping[bytes, Holding]],
    changes: Mapping[int, Change],
) -> set[store.HoldingKey]:
    """Held already at the only size that is declared: another word of storage's takes the lock."""
    return {
        (workspace_id, digest)
        for workspace_id, digest in keys
        if (known := holdings.get(workspace_id, {}).get(digest)) is not None
        and known.refs > 0
        and set(changes[workspace_id].declared.get(digest, ())) == {known.size}
    }


async def _correct(
    connection: Connection, workspaces: Mapping[int, AnyAccount], stored: Mapping[bytes, int]
) -> tuple[dict[int, dict[bytes, Holding]], list[QuotaEvent]]:
    """Give storage's word to whoever holds the digest already."""
    touched: dict[int, dict[bytes, Holding]] = {}
    events: list[QuotaEvent] = []
    if not stored:
        return touched, events
    holders = await store.load_holders(connection, stored)
    wrong = {
        workspace_id
        for workspace_id, holdings in holders.items()
        if workspace_id not in workspaces
        and any(holding.size != stored[digest] for digest, holding in holdings.items())
    }
    if wrong:
        # Storage contradicts what another workspace declared: its usage changes, too.
        raise RetakeError(wrong)
    for workspace_id in holders.keys() & workspaces.keys():
        workspace = workspaces[workspace_id]
        for digest, holding in holders[workspace_id].items():
            if holding.stored and holding.size == stored[digest]:
                continue
            if holding.size != stored[digest] and holding.refs > 0:
                events.append(_mismatch(workspace, digest, holding.size, stored[digest]))
            workspace.usage_bytes += learn_size(holding, stored[digest])
            touched.setdefault(workspace_id, {})[digest] = holding
    return touched, events


async def _recount(
    connection: Connection, workspace_id: int, digest: bytes, holding: Holding
) -> int:
    """Seek the size again among what remains; returns the change of usage in bytes."""
    before = holding.counted
    await store.save_stored(connection, {digest: _AWAITED})  # storage may speak just now
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
        size for blobs in packed for member, size in unpack_blobs(blobs) if member == digest
    } or {0}


def _mismatch(workspace: Account, digest: bytes, declared: int, stored: int) -> QuotaEvent:
    return QuotaEvent(
        workspace.id,
        workspace.name,
        outbox.SIZE_MISMATCH,
        {"digest": format_digest(digest), "declared_bytes": declared, "stored_bytes": stored},
    )
