"""Mapping moves a repository's bytes in one transaction, exactly, also while pushes come in."""

import asyncio
from datetime import UTC, datetime

import pytest

from ledger.facts import BlobStored, Content, ManifestDeleted, ManifestPushed
from ledger.mapping import CleanupRunningError, Mapper, MovedMeanwhileError
from quota.levels import level
from registry.workspaces import Placement, WorkspaceRule
from tests.support import ledgers
from tests.support.histories import BLOBS, IMAGES, OCI_IMAGE, digest, stamp

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SIZE_OF = {named: size + sum(dict(content.blobs).values()) for named, _t, size, content in IMAGES}


def mapper(pool, quota_bytes=10 * 1024**3):
    return Mapper(
        pool,
        rule=WorkspaceRule(ledgers.PATTERN),
        default_quota_bytes=quota_bytes,
        level_of=level,
    )


def push(repository, moment, image=0):
    named, _type, size, content = IMAGES[image]
    return ManifestPushed(
        "default", repository, named, stamp(moment), OCI_IMAGE, size, str(moment), content
    )


async def exact(pool):
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    assert await ledgers.references_agree(pool)


async def test_what_is_shared_stays_and_what_is_moved_counts_in_the_other_workspace(pool):
    recorder = ledgers.recorder(pool)
    await recorder.record(
        [push("acme/api", 1), push("acme/web", 2), push("acme/web", 3, 2)], now=NOW
    )
    mapped = await mapper(pool).map("default", "acme/web", Placement("new", "site"), now=NOW)
    assert (mapped.previous_workspace, mapped.previous_app, mapped.moved_manifests) == (
        "acme",
        "web",
        2,
    )
    assert await ledgers.usage(pool) == {
        "acme": SIZE_OF[IMAGES[0][0]],
        "new": SIZE_OF[IMAGES[0][0]] + SIZE_OF[IMAGES[2][0]],
    }
    await exact(pool)
    row = await pool.fetchrow("SELECT app, mapped FROM repositories WHERE name = 'acme/web'")
    assert tuple(row) == ("site", True)
    # The recorder that still knows the old place finds the new one.
    await recorder.record([push("acme/web", 4, 3)], now=NOW)
    assert "new" in await ledgers.usage(pool)
    await exact(pool)


async def test_mapping_twice_and_back_ends_where_it_began(pool):
    recorder = ledgers.recorder(pool)
    await recorder.record([push("acme/api", 1), push("acme/web", 2, 1)], now=NOW)
    before = await ledgers.rows(pool)
    for to in (Placement("new", "x"), Placement("new", "x"), Placement("acme", "web")):
        await mapper(pool).map("default", "acme/web", to, now=NOW)
        await exact(pool)
    assert await ledgers.rows(pool) == before


async def test_a_repository_can_be_mapped_before_its_first_push(pool):
    await mapper(pool).map("default", "acme/api", Placement("new", "api"), now=NOW)
    await ledgers.recorder(pool).record([push("acme/api", 1)], now=NOW)
    assert await ledgers.usage(pool) == {"new": SIZE_OF[IMAGES[0][0]]}


async def test_both_workspaces_are_told_their_level(pool):
    recorder = ledgers.recorder(pool, quota_bytes=150)
    await recorder.record([push("acme/api", 1)], now=NOW)
    await mapper(pool, 150).map("default", "acme/api", Placement("new", "api"), now=NOW)
    rows = await pool.fetch(
        "SELECT workspace, data->>'previous_level' AS old, data->>'level' AS new FROM outbox"
        " WHERE type LIKE '%level_changed%' ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        ("acme", "ok", "warning"),
        ("acme", "warning", "ok"),
        ("new", "ok", "warning"),
    ]


async def test_a_disputed_size_goes_with_what_declared_it(pool):
    recorder = ledgers.recorder(pool)
    blob = digest("disputed")

    def image(repository, name, size):
        return ManifestPushed(
            "default", repository, digest(name), stamp(size), OCI_IMAGE, 10, None,
            Content(blobs=((blob, size),)),
        )  # fmt: skip

    await recorder.record([image("acme/a", "small", 5), image("acme/b", "large", 500)], now=NOW)
    await mapper(pool).map("default", "acme/b", Placement("new", "b"), now=NOW)
    assert await ledgers.usage(pool) == {"acme": 15, "new": 510} == await ledgers.recount(pool)
    await mapper(pool).map("default", "acme/b", Placement("acme", "b"), now=NOW)
    assert await ledgers.usage(pool) == {"acme": 520} == await ledgers.recount(pool)
    await recorder.record([BlobStored(blob, 7)], now=NOW)
    assert await ledgers.usage(pool) == {"acme": 27} == await ledgers.recount(pool)


async def test_the_caller_takes_it_only_from_where_it_has_rights(pool):
    await ledgers.recorder(pool).record([push("acme/api", 1)], now=NOW)
    with pytest.raises(MovedMeanwhileError):
        await mapper(pool).map(
            "default", "acme/api", Placement("new", "api"), only_from="other", now=NOW
        )
    assert await ledgers.usage(pool) == {"acme": SIZE_OF[IMAGES[0][0]]}


async def test_a_running_cleanup_is_waited_for(pool):
    await ledgers.recorder(pool).record([push("acme/api", 1)], now=NOW)
    await pool.execute(
        """INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes,
             usage_before, promised_bytes)
           SELECT gen_random_uuid(), id, 'running', 'test', 'test', 1, 1, 1 FROM workspaces"""
    )
    with pytest.raises(CleanupRunningError):
        await mapper(pool).map("default", "acme/api", Placement("new", "api"), now=NOW)
    assert await ledgers.usage(pool) == {"acme": SIZE_OF[IMAGES[0][0]]}


async def test_mappings_that_race_with_pushes_and_deletes_end_exact(pool):
    repositories = ("acme/api", "acme/web", "other/api")
    recorders = [ledgers.recorder(pool) for _ in range(3)]

    async def writing(number):
        for moment in range(40):
            facts = [
                push(repository, 100 * moment + 10 * number + place, (moment + number) % 4)
                for place, repository in enumerate(repositories)
            ]
            gone = facts[moment % 3]
            if moment % 4 == 0:
                facts.append(
                    ManifestDeleted(
                        "default", gone.repository, gone.digest, stamp(100 * moment + 99)
                    )
                )
            if moment % 5 == 0:
                facts.append(BlobStored(BLOBS[(moment + number) % 6], 1000 + number))
            await recorders[number].record(facts, now=NOW)

    async def mapping():
        for moment in range(30):
            to = Placement(("acme", "other", "third")[moment % 3], "app")
            await mapper(pool).map("default", repositories[moment % 2], to, now=NOW)

    await asyncio.gather(*(writing(number) for number in range(3)), mapping(), mapping())
    await exact(pool)
