"""The internal API's records: what a build platform tells of its images, and reads back.

A record is a live tag. What the platform tells is an observation that counts at once and is asked of
the registry afterwards: stamped just behind what is known, so that every fact of the registry's own wins.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from ledger import images as image_rows
from ledger import reading, records
from ledger.ahead import just_after
from ledger.announce import rfc3339
from ledger.claims import claimed
from ledger.facts import Fact, ManifestDeleted, ManifestSeen, Stamp, TagRemoved
from ledger.mapping import Mapper, while_of
from ledger.record import Recorder
from ledger.records import RecordView, Standing
from quota.images import digests_of, size_bytes
from registry.names import InvalidName, check_repository, check_tag, format_digest
from registry.timestamps import to_ns
from registry.workspaces import Placement
from runtime.logs import get_logger
from runtime.postgres import Connection, Pool
from runtime.settings import DEFAULT_REGISTRY

log = get_logger(__name__)

SOURCE: Final = "internal-api"

_ID: Final = re.compile(r"(\d{1,9})\.(.+)", re.ASCII)


class PlaceTakenError(Exception):
    """The repository of this name was given to another workspace or app by hand; map it back first."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class Claim(msgspec.Struct, frozen=True):
    """What a platform says: this tag of this app is this digest, of so many bytes (0: not known)."""

    workspace: str
    app: str
    tag: str
    digest: bytes
    size: int


class Place(msgspec.Struct, frozen=True):
    """The repository that a claim is about, and where it counts until now."""

    repository: str
    now_in: Placement


class Records:
    """Lists, takes and removes records."""

    def __init__(
        self,
        pool: Pool,
        *,
        recorder: Recorder,
        mapper: Mapper,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._mapper = mapper
        self._clock = clock
        self._new_id = new_id
        self._turns = _Turns()

    async def all(self, workspace_id: int) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Every record of a workspace in one snapshot, oldest push first, in parts."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            async for part in records.of_workspace(connection, workspace_id):
                yield await _documents(connection, part)

    async def find(self, record_id: str) -> RecordView | None:
        """A record by its id."""
        key = parse_id(record_id)
        if key is None:
            return None
        async with self._pool.acquire() as connection:
            return await records.one(connection, *key)

    async def place(self, claim: Claim) -> Place:
        """Where a claim belongs. Raises InvalidName, PlaceTakenError.

        The repository that counts as this app of this workspace, else `{workspace}/{app}`.
        """
        usual = f"{claim.workspace}/{claim.app}"
        wanted = Placement(claim.workspace, claim.app)
        async with self._pool.acquire() as connection:
            found = await records.repository_of_app(
                connection, DEFAULT_REGISTRY, *wanted, usual=usual
            )
            if found is not None:
                return Place(found, wanted)
            known = await records.find_repository(
                connection, DEFAULT_REGISTRY, check_repository(usual)
            )
        if known is not None and known[1]:
            raise PlaceTakenError
        return Place(usual, await self._mapper.placement(DEFAULT_REGISTRY, usual))

    async def put(self, claim: Claim, place: Place) -> tuple[dict[str, Any], bool]:
        """Take a claim; the record as it stands then, and whether it is new.

        Raises CleanupRunningError where the repository has to be mapped first, MovedMeanwhileError when
        it is another workspace's by now.
        """
        check_tag(claim.tag)
        wanted = Placement(claim.workspace, claim.app)
        now = self._clock()
        if place.now_in != wanted:
            await self._mapper.map(
                DEFAULT_REGISTRY,
                place.repository,
                wanted,
                only_from=place.now_in.workspace,
                now=now,
            )
        async with self._turns.take((place.repository, claim.tag)):
            before = await self._standing(place.repository, claim.tag, claim.digest)
            created = not await self._is_record(place.repository, claim.tag)
            stamp = self._just_after(before)
            fact = ManifestSeen(
                DEFAULT_REGISTRY,
                place.repository,
                claim.digest,
                stamp,
                "",
                0,
                claim.tag,
                claimed(claim.digest, claim.size, stamp),
                to_ns(now),
            )
            await self._recorder.record(
                [fact],
                now=now,
                source=SOURCE,
                within=while_of(claim.workspace, [(DEFAULT_REGISTRY, place.repository)]),
            )
            log.info(
                "record_taken",
                workspace=claim.workspace,
                app=claim.app,
                repository=place.repository,
                tag=claim.tag,
                digest=format_digest(claim.digest),
                size_bytes=claim.size,
                created=created,
            )
            return await self._document(place.repository, claim.tag), created

    async def remove(self, record: RecordView) -> None:
        """Forget a record, never the image: an image that only records told of goes with the last.

        Raises MovedMeanwhileError when it is another workspace's now.
        """
        manifest = record.manifest
        async with self._turns.take((manifest.repository, record.tag)):
            async with self._pool.acquire() as connection:
                known = await records.standing(connection, manifest.repository_id, record.tag)
                digest = known.tag.digest
                if digest is None:
                    return
                shared = await records.other_live_tags(
                    connection, manifest.repository_id, digest, known.manifest, record.tag
                )
            stamp = self._just_after(known)
            facts: list[Fact] = [
                TagRemoved(manifest.registry, manifest.repository, record.tag, stamp)
            ]
            if not shared and _only_claimed(known):
                facts.append(ManifestDeleted(manifest.registry, manifest.repository, digest, stamp))
            await self._recorder.record(
                facts,
                now=self._clock(),
                source=SOURCE,
                within=while_of(record.workspace, [(manifest.registry, manifest.repository)]),
            )
            log.info(
                "record_removed",
                repository=manifest.repository,
                tag=record.tag,
                digest=format_digest(digest),
            )

    def _just_after(self, known: Standing) -> Stamp:
        """Behind everything that is known of both, before whatever the registry tells from now on."""
        newest = max(known.tag.set, known.tag.untag, known.manifest.known, known.manifest.delete)
        return just_after(newest[0], self._new_id().bytes)

    async def _standing(self, repository: str, tag: str, digest: bytes) -> Standing:
        async with self._pool.acquire() as connection:
            known = await records.find_repository(connection, DEFAULT_REGISTRY, repository)
            return await records.standing(
                connection, -1 if known is None else known[0], tag, digest
            )

    async def _is_record(self, repository: str, tag: str) -> bool:
        async with self._pool.acquire() as connection:
            known = await records.find_repository(connection, DEFAULT_REGISTRY, repository)
            return known is not None and await records.one(connection, known[0], tag) is not None

    async def _document(self, repository: str, tag: str) -> dict[str, Any]:
        async with self._pool.acquire() as connection:
            known = await records.find_repository(connection, DEFAULT_REGISTRY, repository)
            record = None if known is None else await records.one(connection, known[0], tag)
            if record is None:
                raise GoneMeanwhileError
            return (await _documents(connection, [record]))[0]


class GoneMeanwhileError(Exception):
    """The registry told at the same moment that the image is gone; look, and try again."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


def _only_claimed(known: Standing) -> bool:
    """Whether nothing but a platform's word says that the image exists."""
    content = known.manifest.content
    return known.manifest.push[0] < 0 and (content is None or content.claimed_ns >= 0)


def parse_id(record_id: str) -> tuple[int, str] | None:
    """A record's id → (repository id, tag); None for what is no id."""
    match = _ID.fullmatch(record_id)
    if match is None:
        return None
    try:
        return int(match[1]), check_tag(match[2])
    except InvalidName:
        return None


async def _documents(connection: Connection, part: Sequence[RecordView]) -> list[dict[str, Any]]:
    views = await image_rows.with_children(connection, (item.manifest for item in part))
    held = {
        workspace_id: await reading.held(connection, workspace_id, digests_of(views.values()))
        for workspace_id in {item.workspace_id for item in part}
    }
    return [
        {
            "id": f"{item.manifest.repository_id}.{item.tag}",
            "workspace": item.workspace,
            "app": item.manifest.app,
            "appName": item.manifest.app,
            "tag": item.tag,
            "digest": format_digest(item.manifest.digest),
            "sizeBytes": size_bytes(
                views, (item.manifest.repository_id, item.manifest.digest), held[item.workspace_id]
            ),
            "pushedAt": rfc3339(max(item.pushed_ns, 0)),
        }
        for item in part
    ]


class _Turns:
    """One at a time for each key, within this process."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._users: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def take(self, key: tuple[str, str]) -> AsyncIterator[None]:
        """Wait for the others that hold this key."""
        self._users[key] += 1
        try:
            async with self._locks.setdefault(key, asyncio.Lock()):
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
