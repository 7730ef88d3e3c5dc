"""Loads and saves the part of the ledger that a batch of facts touches. Never commits."""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import asyncpg
import msgspec

from ledger import statements
from ledger.ahead import Odd
from ledger.counting import Holding
from ledger.facts import NEVER, Content, Stamp
from ledger.fold import Manifest, ManifestKey, Tag, TagKey, only_set
from ledger.naming import Run, TagSet, behind, heads, with_set
from ledger.packing import pack_blobs, pack_digests, unpack_blobs, unpack_digests
from ledger.words import Word
from runtime.postgres import Connection

_SHARES = 64
"""Parts of all digests that are locked as one. Locks are few in Postgres, conflicts rare."""

_by_key = itemgetter(0)
_pack = msgspec.msgpack.Encoder().encode
_unpack_stamp = msgspec.msgpack.Decoder(Stamp).decode
_NOT_DATED = Manifest().dated

_decode_odd = msgspec.msgpack.Decoder(Odd).decode


def _stamp(ns: int, identifier: bytes | None) -> Stamp:
    return NEVER if ns < 0 else (ns, identifier or b"")


def _optional(ns: int | None, identifier: bytes | None) -> Stamp:
    return NEVER if ns is None else (ns, identifier or b"")


def manifest_of(row: asyncpg.Record) -> Manifest:
    """A row of `manifests` as the fold knows it."""
    content = None
    if row["blobs"] is not None:
        content = Content(
            blobs=unpack_blobs(row["blobs"]),
            children=unpack_digests(row["children"] or b""),
            config_media_type=row["config_media_type"] or "",
            artifact_type=row["artifact_type"] or "",
            subject=row["subject"],
            subject_known=row["subject_known"],
            claimed_ns=row["claimed_ns"],
            rules=row["read_by"] or 0,
        )
    sure, heard = (
        _optional(row["sure_ns"], row["sure_id"]),
        _optional(row["heard_ns"], row["heard_id"]),
    )
    delete = _stamp(row["delete_ns"], row["delete_id"])
    if delete > max(sure, heard):
        sure = delete  # what an earlier release counted goes on counting
    return Manifest(
        push=_stamp(row["push_ns"], row["push_id"]),
        seen=_stamp(row["seen_ns"], row["seen_id"]),
        sure=sure,
        heard=heard,
        media_type=row["media_type"],
        size=row["size"],
        content=content,
        created_ns=row["created_ns"],
        pulled_ns=row["pulled_ns"],
        # Of a row that an earlier release wrote: its newest one.
        first_ns=row["push_ns"] if row["first_ns"] is None else row["first_ns"],
        left_ns=row["left_ns"],
        dated=_NOT_DATED
        if row["dated_ns"] is None
        else (_unpack_stamp(row["dated_stamp"]), row["dated_ns"]),
        odd=None if row["odd"] is None else _decode_odd(row["odd"]),
    )


class _History(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a tag's row holds of its sets beside the newest one."""

    other: Stamp
    heads: Run
    more: bool


_unpack_history = msgspec.msgpack.Decoder(_History).decode
_NO_MANIFEST = Manifest()


def tag_of(row: asyncpg.Record) -> Tag:
    """A row of `tags` as the fold knows it."""
    tag = Tag(
        digest=row["digest"],
        set=_stamp(row["set_ns"], row["set_id"]),
        untag=_stamp(row["untag_ns"], row["untag_id"]),
        odd=None if row["odd"] is None else _decode_odd(row["odd"]),
    )
    known = row["history_set_ns"] == row["set_ns"]
    if known and row["history"] is not None:
        history = _unpack_history(row["history"])
        tag.other, tag.run, tag.more = history.other, history.heads, history.more
    else:
        tag.run = only_set(tag)
    tag.partial = bool(row["history_partial"]) if known else tag.digest is not None
    return tag


def named_another(history: bytes) -> bool:
    """Whether a tag's packed history (empty: one set) knows that it named something else than it does."""
    return bool(history) and _unpack_history(history).other > NEVER


def _history_of(tag: Tag, manifest: Manifest, *, more: bool) -> bytes | None:
    """What `tag_of` reads back; null where that is what it would take anyway.

    Of the deletes of its manifest either may come to count.
    """
    if tag.other == NEVER and not more and tag.run == only_set(tag):
        return None
    kept = heads(tag.run)
    for delete in (manifest.sure, manifest.heard):
        for tag_set in heads(behind(tag.run, delete)):
            kept = with_set(kept, tag_set)
    return _pack(_History(tag.other, kept, more))


async def load_manifests(
    connection: Connection, keys: Iterable[ManifestKey]
) -> dict[ManifestKey, Manifest]:
    """The known ones among the keys."""
    wanted = sorted(keys)
    if not wanted:
        return {}
    rows = await connection.fetch(
        statements.LOAD_MANIFESTS, [key[0] for key in wanted], [key[1] for key in wanted]
    )
    return {(row["repository_id"], row["digest"]): manifest_of(row) for row in rows}


async def load_tags(connection: Connection, keys: Iterable[TagKey]) -> dict[TagKey, Tag]:
    """The known ones among the keys."""
    wanted = sorted(keys)
    if not wanted:
        return {}
    rows = await connection.fetch(
        statements.LOAD_TAGS, [key[0] for key in wanted], [key[1] for key in wanted]
    )
    return {(row["repository_id"], row["name"]): tag_of(row) for row in rows}


async def load_tags_on(connection: Connection, keys: Iterable[ManifestKey]) -> dict[TagKey, Tag]:
    """All tags, live or not, whose newest set named one of these manifests."""
    wanted = sorted(keys)
    if not wanted:
        return {}
    rows = await connection.fetch(
        statements.LOAD_TAGS_ON_MANIFESTS, [key[0] for key in wanted], [key[1] for key in wanted]
    )
    return {(row["repository_id"], row["name"]): tag_of(row) for row in rows}


_MANIFEST_COLUMNS = (
    *("repository_id", "digest", "push_ns", "push_id", "seen_ns", "seen_id", "delete_ns"),
    *("delete_id", "created_ns", "pulled_ns", "left_ns", "size", "media_type"),
    *("config_media_type", "artifact_type", "subject", "subject_known", "blobs", "children"),
    *("claimed_ns", "read_by", "present", "sure_ns", "sure_id", "heard_ns", "heard_id"),
    *("dated_ns", "dated_stamp", "odd", "first_ns"),
)
_TAG_COLUMNS = (
    *("repository_id", "name", "digest", "set_ns", "set_id", "untag_ns", "untag_id", "named_ns"),
    *("first_push_ns", "latest_ns", "history_set_ns", "history_partial", "history", "odd"),
)
_HOLDING_COLUMNS = ("digest", "workspace_id", "refs", "names", "size", "stored", "mixed")


async def save_manifests(
    connection: Connection,
    changed: Mapping[ManifestKey, Manifest],
    known: Container[ManifestKey],
) -> None:
    """Write manifests as they stand; `known` are those that the ledger has already."""
    added: list[tuple[Any, ...]] = []
    altered: list[tuple[Any, ...]] = []
    for key, manifest in sorted(changed.items(), key=_by_key):
        when, said = manifest.dated
        (altered if key in known else added).append(
            (
                key[0],
                key[1],
                manifest.push[0],
                manifest.push[1] or None,
                manifest.seen[0],
                manifest.seen[1] or None,
                manifest.delete[0],
                manifest.delete[1] or None,
                manifest.created_ns,
                manifest.pulled_ns,
                manifest.left_ns,
                manifest.size,
                manifest.media_type,
                *_content_columns(manifest.content),
                manifest.present,
                *_columns_of(manifest.sure),
                *_columns_of(manifest.heard),
                *((None, None) if said < 0 else (said, _pack(when))),
                None if manifest.odd is None else _pack(manifest.odd),
                None if manifest.first_ns < 0 else manifest.first_ns,
            )
        )
    await _add(connection, "manifests", _MANIFEST_COLUMNS, added)
    if altered:
        await connection.execute(statements.CHANGE_MANIFESTS, *_columns(altered))


async def _add(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """New rows, in order of their key: a COPY costs the least here and in Postgres."""
    if rows:
        await connection.copy_records_to_table(table, records=rows, columns=columns)


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _columns_of(stamp: Stamp) -> tuple[int | None, bytes | None]:
    return (None, None) if stamp == NEVER else (stamp[0], stamp[1] or None)


def _content_columns(
    content: Content | None,
) -> tuple[str | None, str | None, bytes | None, bool, bytes | None, bytes | None, int, int | None]:
    if content is None:
        return (None, None, None, False, None, None, -1, None)
    return (
        content.config_media_type or None,
        content.artifact_type or None,
        content.subject,
        content.subject_known,
        pack_blobs(content.blobs),
        pack_digests(content.children) if content.children else None,
        content.claimed_ns,
        content.rules or None,
    )


async def load_repeats(connection: Connection, tags: Mapping[TagKey, Tag]) -> None:
    """Complete the runs of some tags: a fact that came late may lie anywhere in them."""
    ordered = sorted(tags)
    rows = await connection.fetch(
        statements.LOAD_REPEATS, [key[0] for key in ordered], [key[1] for key in ordered]
    )
    for row in sorted(rows, key=itemgetter("set_ns", "set_id")):
        tag = tags[row["repository_id"], row["name"]]
        tag_set = TagSet((row["set_ns"], row["set_id"]), row["moment_ns"], row["pushed"])
        tag.run = with_set(tag.run, tag_set)
    for tag in tags.values():
        tag.run = behind(tag.run, max(tag.other, tag.untag))


async def save_tags(
    connection: Connection,
    changed: Mapping[TagKey, Tag],
    before: Mapping[TagKey, Tag],
    manifests: Mapping[ManifestKey, Manifest],
) -> None:
    """Write tags as they stand; `before` are those that the ledger has already, as they were.

    `manifests` has what they name.
    """
    added: list[tuple[Any, ...]] = []
    altered: list[tuple[Any, ...]] = []
    repeats: list[tuple[Any, ...]] = []
    forgotten: list[tuple[Any, ...]] = []
    for key, tag in sorted(changed.items(), key=_by_key):
        old = before.get(key)
        more = _keep_run(key, tag, old, repeats, forgotten)
        manifest = manifests.get((key[0], tag.digest or b""), _NO_MANIFEST)
        named = tag.named(manifest)
        (added if old is None else altered).append(
            (
                key[0],
                key[1],
                tag.digest,
                tag.set[0],
                tag.set[1] or None,
                tag.untag[0],
                tag.untag[1] or None,
                named.moment_ns,
                named.first_push_ns,
                named.latest_ns,
                tag.set[0],
                tag.partial,
                _history_of(tag, manifest, more=more),
                None if tag.odd is None else _pack(tag.odd),
            )
        )
    await _add(connection, "tags", _TAG_COLUMNS, added)
    if altered:
        await connection.execute(statements.CHANGE_TAGS, *_columns(altered))
    if forgotten:
        await connection.execute(statements.FORGET_REPEATS, *_columns(forgotten))
    if repeats:
        await connection.execute(statements.ADD_REPEATS, *_columns(repeats))


def _keep_run(
    key: TagKey,
    tag: Tag,
    old: Tag | None,
    repeats: list[tuple[Any, ...]],
    forgotten: list[tuple[Any, ...]],
) -> bool:
    """What of a tag's run goes into `tag_repeats`, or out of it; whether anything stands there then.

    A run of one set needs no row there. The row in `tags` has what the age follows from.
    """
    several = len(tag.run) > 1
    there = old is not None and old.more
    if old is not None and there and (not several or tag.run[0].stamp > old.run[0].stamp):
        since = tag.run[0].stamp if several else (None, None)
        forgotten.append((*key, *since))
    if several and (old is None or tag.run != old.run):
        known = {tag_set.stamp for tag_set in old.run} if old is not None and there else set()
        repeats += [
            (*key, *tag_set.stamp, tag_set.moment_ns, tag_set.pushed)
            for tag_set in tag.run
            if tag_set.stamp not in known
        ]
    return several


async def add_blobs(connection: Connection, blobs: Iterable[ManifestKey]) -> set[ManifestKey]:
    """Keep what was pushed or mounted as a blob.

    Returns those that are news, and of whose digest a delete was heard: as a manifest's it may count.
    """
    ordered = sorted(blobs)
    if not ordered:
        return set()
    rows = await connection.fetch(
        statements.ADD_BLOBS, [key[0] for key in ordered], [key[1] for key in ordered]
    )
    return {(row["repository_id"], row["digest"]) for row in rows}


async def load_blobs(connection: Connection, keys: Iterable[ManifestKey]) -> set[ManifestKey]:
    """Which of the keys are known as blobs of their repository."""
    wanted = sorted(keys)
    if not wanted:
        return set()
    rows = await connection.fetch(
        statements.LOAD_BLOBS, [key[0] for key in wanted], [key[1] for key in wanted]
    )
    return {(row["repository_id"], row["digest"]) for row in rows}


async def load_holdings(
    connection: Connection, wanted: Mapping[int, Collection[bytes]]
) -> tuple[dict[int, dict[bytes, Holding]], dict[bytes, int]]:
    """What is known of digests of each workspace id: what it holds, and what storage said of any.

    Returns workspace id → digest → holding, and digest → size in bytes.
    """
    digests: list[bytes] = []
    parts: list[tuple[int, int, int]] = []
    for workspace_id, members in wanted.items():
        first = len(digests) + 1
        digests += sorted(members)
        parts.append((workspace_id, first, len(digests)))
    if not digests:
        return {}, {}
    rows = await connection.fetch(statements.LOAD_HOLDINGS, digests, *_columns(parts))
    told = {row["digest"]: row["told"] for row in rows if row["told"] is not None}
    return _holdings(row for row in rows if row["refs"] is not None), told


async def load_holders(
    connection: Connection, digests: Iterable[bytes]
) -> dict[int, dict[bytes, Holding]]:
    """Workspace id → digest → what is held, in every workspace that holds one of the digests."""
    return _holdings(await connection.fetch(statements.LOAD_HOLDERS, sorted(digests)))


def _holdings(rows: Iterable[asyncpg.Record]) -> dict[int, dict[bytes, Holding]]:
    found: dict[int, dict[bytes, Holding]] = {}
    for row in rows:
        found.setdefault(row["workspace_id"], {})[row["digest"]] = Holding(
            refs=row["refs"],
            names=row["names"],
            size=row["size"],
            stored=row["stored"],
            mixed=row["mixed"],
            saved=True,
        )
    return found


async def save_holdings(
    connection: Connection, changed: Mapping[int, Mapping[bytes, Holding]], now: datetime
) -> None:
    """Write what workspaces hold, as it stands."""
    added: list[tuple[Any, ...]] = []
    altered: list[tuple[Any, ...]] = []
    for workspace_id, holdings in changed.items():
        for digest, held in holdings.items():
            row = (digest, workspace_id, held.refs, held.names, held.size, held.stored, held.mixed)
            if held.saved:
                altered.append((*row, held.released))
            else:
                added.append(row)  # it was never held, so nothing was released
    added.sort()
    altered.sort()
    await _add(connection, "workspace_digests", _HOLDING_COLUMNS, added)
    if altered:
        await connection.execute(statements.CHANGE_HOLDINGS, *_columns(altered), now)


async def lock_digests(
    connection: Connection, used: Iterable[bytes], told: Iterable[bytes]
) -> None:
    """Wait for whoever writes storage's word on what is `used`, or uses what it is `told` of.

    Call it under the workspaces' locks, before reading what storage said or who holds what.
    """
    alone = dict.fromkeys((digest[-1] % _SHARES for digest in used), False)
    alone |= dict.fromkeys((digest[-1] % _SHARES for digest in told), True)
    if alone:
        shares = sorted(alone)
        await connection.fetch(statements.LOCK_DIGESTS, shares, [alone[item] for item in shares])


async def load_stored(connection: Connection, digests: Iterable[bytes]) -> dict[bytes, int]:
    """Sizes in bytes that storage said."""
    wanted = sorted(digests)
    if not wanted:
        return {}
    rows = await connection.fetch(statements.LOAD_STORED, wanted)
    return {row["digest"]: row["size"] for row in rows}


async def load_words(connection: Connection, digests: Iterable[bytes]) -> dict[bytes, Word]:
    """What storage said, and whose word it is."""
    wanted = sorted(digests)
    if not wanted:
        return {}
    rows = await connection.fetch(statements.LOAD_WORDS, wanted)
    return {row["digest"]: (row["word"], row["asked_ns"], row["size"]) for row in rows}


async def save_stored(connection: Connection, words: Mapping[bytes, Word]) -> None:
    """Write what storage said, where it counts for more than what is known."""
    if words:
        rows = [(digest, *word) for digest, word in sorted(words.items())]
        await connection.execute(statements.SAVE_STORED, *_columns(rows))


async def told_only(connection: Connection, digests: Iterable[bytes]) -> list[bytes]:
    """Those whose size in storage nobody but an event told."""
    rows = await connection.fetch(statements.TOLD_ONLY, sorted(digests))
    return sorted(row["digest"] for row in rows)


async def add_tag_checks(connection: Connection, tags: Iterable[TagKey], due_at: datetime) -> None:
    """Have the registry asked what some tags point at."""
    ordered = sorted(tags)
    if ordered:
        await connection.execute(
            statements.ADD_TAG_CHECKS,
            [key[0] for key in ordered],
            [key[1] for key in ordered],
            due_at,
        )


async def add_manifest_checks(
    connection: Connection, manifests: Iterable[ManifestKey], due_at: datetime
) -> None:
    """Have the registry asked whether it has some manifests."""
    ordered = sorted(manifests)
    if ordered:
        await connection.execute(
            statements.ADD_MANIFEST_CHECKS,
            [key[0] for key in ordered],
            [key[1] for key in ordered],
            due_at,
        )


async def add_size_check(
    connection: Connection, manifests: Iterable[ManifestKey], due_at: datetime, attempts: int = 0
) -> None:
    """Have storage asked how large the blobs of some manifests are, or what it has under a digest.

    The latter stands without a repository (id 0): it is asked for wherever it is held.
    """
    packed = pack_blobs((digest, repository_id) for repository_id, digest in manifests)
    if packed:
        await connection.execute(statements.ADD_SIZE_CHECK, packed, due_at, attempts)
