"""Apps: what their pushes usually bring, what they do to reservations, and who holds most."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from ledger import reservations
from ledger.counting import Change
from ledger.fold import Manifest, ManifestKey
from ledger.packing import unpack_blobs
from ledger.settlement import (
    Arrival,
    TaggedPush,
    pack_history,
    remember,
    samples,
    settle,
    unpack_history,
)
from runtime.postgres import Connection

AppKey = tuple[int, str]
"""(workspace id, app)"""

HISTORIES = """
SELECT h.workspace_id, h.app, h.recent
FROM unnest($1::int[], $2::text[]) AS wanted(workspace_id, app)
JOIN app_pushes h USING (workspace_id, app)
"""

SAVE_HISTORIES = """
INSERT INTO app_pushes (workspace_id, app, recent)
SELECT * FROM unnest($1::int[], $2::text[], $3::bytea[])
ON CONFLICT (workspace_id, app) DO UPDATE SET recent = excluded.recent
"""

HISTORY = "SELECT recent FROM app_pushes WHERE workspace_id = $1 AND app = $2"

CONTENTS = """
SELECT r.app, m.digest, m.size, m.blobs
FROM repositories r JOIN manifests m ON m.repository_id = r.id
WHERE r.workspace_id = $1 AND m.present
"""
_PREFETCH = 500


class Place(Protocol):
    """Where a repository counts."""

    @property
    def workspace_id(self) -> int: ...  # noqa: D102
    @property
    def app(self) -> str: ...  # noqa: D102


class Pushes(msgspec.Struct):
    """New pushes of one app."""

    arrivals: list[Arrival] = msgspec.field(default_factory=list)
    tagged: list[TaggedPush] = msgspec.field(default_factory=list)


async def take_pushes(
    connection: Connection,
    before: Mapping[ManifestKey, Manifest],
    arrived: Mapping[ManifestKey, Manifest],
    tagged: Sequence[tuple[int, TaggedPush]],
    places: Mapping[int, Place],
    changes: Mapping[int, Change],
    now: datetime,
) -> None:
    """Settle reservations and remember what apps push, within the transaction that records it.

    `arrived`: manifests that count now and did not, or not wholly, `before`. `tagged`: (repository
    id, push). `changes` were applied: they say what each workspace did not hold before.
    """
    apps = _by_app(before, arrived, tagged, places, changes)
    if not apps:
        return
    held = await reservations.of_apps(connection, {key[0] for key in apps}, now=now)
    settled = [
        item
        for key, mine in held.items()
        if key in apps
        for item in settle(mine, apps[key].arrivals, apps[key].tagged)
    ]
    await reservations.save_settled(connection, settled)
    await _remember(connection, apps)


def _by_app(
    before: Mapping[ManifestKey, Manifest],
    arrived: Mapping[ManifestKey, Manifest],
    tagged: Iterable[tuple[int, TaggedPush]],
    places: Mapping[int, Place],
    changes: Mapping[int, Change],
) -> dict[AppKey, Pushes]:
    apps: dict[AppKey, Pushes] = defaultdict(Pushes)
    unclaimed = {workspace_id: dict(change.gained) for workspace_id, change in changes.items()}
    # A blob that several manifests brought counts for the first of them.
    pushed = [item for item in arrived.items() if item[1].push[0] >= 0]  # else found, not pushed
    pushed.sort(key=lambda item: item[1].push)
    for key, manifest in pushed:
        place = places[key[0]]
        take = unclaimed[place.workspace_id].pop
        fresh = take(key[1], 0)
        children: tuple[bytes, ...] = ()
        if manifest.content is not None:
            for digest, _size in manifest.content.blobs:
                fresh += take(digest, 0)
            children = manifest.content.children
        old = before.get(key)
        apps[place.workspace_id, place.app].arrivals.append(
            Arrival(manifest.push[0], key[1], fresh, children, more=old is not None and old.present)
        )
    for repository_id, push in tagged:
        place = places[repository_id]
        apps[place.workspace_id, place.app].tagged.append(push)
    return apps


async def _remember(connection: Connection, apps: Mapping[AppKey, Pushes]) -> None:
    keys = sorted(apps)
    known = {
        (row["workspace_id"], row["app"]): row["recent"]
        for row in await connection.fetch(
            HISTORIES, [key[0] for key in keys], [key[1] for key in keys]
        )
    }
    rows = []
    for key in keys:
        old = known.get(key, b"")
        new = pack_history(remember(unpack_history(old), apps[key].arrivals, apps[key].tagged))
        if new != old:
            rows.append((*key, new))
    if rows:
        columns = (list(column) for column in zip(*rows, strict=True))
        await connection.execute(SAVE_HISTORIES, *columns)


async def usual_pushes(connection: Connection, workspace_id: int, app: str) -> list[int]:
    """New unique bytes of each of the app's last pushes by tag."""
    packed = await connection.fetchval(HISTORY, workspace_id, app)
    return [] if packed is None else samples(unpack_history(packed))


async def bytes_by_app(connection: Connection, workspace_id: int) -> list[tuple[str, int]]:
    """(app, declared bytes of its distinct digests), the largest first; within a transaction.

    What apps share counts for each of them. Rows are streamed; it costs O(what is stored).
    """
    seen: dict[str, set[bytes]] = defaultdict(set)
    sizes: dict[str, int] = defaultdict(int)
    async for row in connection.cursor(CONTENTS, workspace_id, prefetch=_PREFETCH):
        app = row["app"]
        for digest, size in ((row["digest"], row["size"]), *unpack_blobs(row["blobs"] or b"")):
            if digest not in seen[app]:
                seen[app].add(digest)
                sizes[app] += size
    return sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
