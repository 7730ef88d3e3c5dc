"""Replay on real Kafka and Postgres: the rebuilt ledger is the live one, or says where it is not."""

import time
import uuid
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from pydantic import SecretStr

from consumer.rebuild import BusyError, rebuilding
from consumer.replay import LogIncompleteError
from ledger.facts import BlobStored, ManifestDeleted, ManifestPushed
from ledger.mapping import Mapper
from ledger.rebuilt import Change, LosesImagesError
from quota.levels import level
from quota.records import Claim, Records
from registry.media_types import OCI_MANIFEST
from registry.timestamps import format_timestamp
from registry.workspaces import Placement, WorkspaceRule
from runtime.kafka import cluster_id, create_topics
from tests.support import ledgers
from tests.support.consumers import caught_up, consuming, event, publish, settings_for, usage


def now():
    return datetime.now(UTC)


@pytest_asyncio.fixture
async def here(pool, database_url, kafka_bootstrap):
    """Settings of a database and a Kafka."""
    settings = settings_for(kafka_bootstrap).model_copy(
        update={"database_url": SecretStr(database_url)}
    )
    await create_topics(settings)
    return settings


def ignored(_change):
    """Who does not care what changes."""


def replaying(settings):
    return rebuilding(settings, clock=now, progress=lambda *_: None)


async def filled(settings, pool):
    """A ledger with events, a mapping, a size of storage, an own delete, a platform's records, a quota.

    Returns its workspace.
    """
    workspace = f"w{uuid.uuid4().hex[:8]}"
    events = [event(f"{workspace}/app{number % 3}", tag=str(number)) for number in range(20)]
    await publish(settings, workspace, b"not json", *events, events[3])
    async with consuming(settings, pool, cluster=await cluster_id(settings)):
        await caught_up(settings, pool, cluster=await cluster_id(settings))
    digests = [bytes.fromhex(item["target"]["digest"].removeprefix("sha256:")) for item in events]
    layer = events[5]["target"]["references"][0]["digest"]
    newest = await pool.fetchval("SELECT max(push_ns) FROM manifests")
    await ledgers.recorder(pool).record(
        [
            ManifestDeleted("default", f"{workspace}/app0", digests[0], (newest + 1, b"")),
            BlobStored(bytes.fromhex(layer.removeprefix("sha256:")), 7777),
        ],
        now=now(),
        source="cleanup",
    )
    mapper = Mapper(
        pool, rule=WorkspaceRule(ledgers.PATTERN), default_quota_bytes=10**9, level_of=level
    )
    await mapper.map("default", f"{workspace}/app1", Placement(f"{workspace}-b", "x"), now=now())
    records = Records(pool, recorder=ledgers.recorder(pool), mapper=mapper, clock=now)
    for tag, size in (("told", 900), ("told", 800), ("3", 700), ("gone", 600)):
        claim = Claim(workspace, "app0", tag, bytes([size // 100]) * 32, size)
        record, _created = await records.put(claim, await records.place(claim))
    found = await records.find(record["id"])
    assert found is not None
    await records.remove(found)
    await pool.execute("UPDATE workspaces SET quota_bytes = 150000, configured = true")
    return workspace


async def differences(settings):
    async with replaying(settings) as rebuild:
        found = [item async for item in rebuild.differences()]
        return found, rebuild.replayed


async def test_a_good_ledger_is_rebuilt_without_a_difference(here, pool):
    await filled(here, pool)
    outbox = await pool.fetchval("SELECT count(*) FROM outbox")
    found, replayed = await differences(here)
    assert found == []
    assert replayed.events >= 22
    assert replayed.skipped >= 1
    assert replayed.observations == 2 + 4 + 2
    assert await pool.fetchval("SELECT count(*) FROM outbox") == outbox, "nothing is announced"
    assert not await pool.fetchval("SELECT to_regnamespace('replayed') IS NOT NULL")


async def test_what_was_tampered_with_is_told_and_swapped_while_a_consumer_runs(here, pool):
    workspace = await filled(here, pool)
    good = await ledgers.rows(pool)
    await pool.execute("UPDATE workspaces SET usage_bytes = usage_bytes + 9 WHERE usage_bytes > 0")
    await pool.execute("UPDATE workspace_digests SET refs = 2 WHERE refs = 1")
    await pool.execute("UPDATE tags SET untag_ns = set_ns + 1 WHERE name = '4'")
    lost = await pool.fetchval(
        """DELETE FROM manifests WHERE (repository_id, digest) IN (
             SELECT repository_id, digest FROM manifests WHERE present LIMIT 1) RETURNING digest"""
    )
    found, _replayed = await differences(here)
    kinds = {item.kind for item in found}
    assert kinds == {"manifest", "tag", "bytes"}
    assert lost in {item.name for item in found if item.live is None}

    told: list[Change] = []
    async with consuming(here, pool, cluster=await cluster_id(here)) as consumer:
        await caught_up(here, pool, cluster=await cluster_id(here))
        async with replaying(here) as rebuild:
            assert await rebuild.swap(tell=told.append) > 0
        assert [(change.lost, change.gained) for change in told] == [(0, 1)]
        assert await ledgers.rows(pool) == good
        # The consumer is refused its next batch, comes back and goes on.
        await publish(here, workspace, event(f"{workspace}/app0", tag="new"))
        await caught_up(here, pool, cluster=await cluster_id(here))
        assert consumer.ready
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    assert await ledgers.references_agree(pool)
    kept = await pool.fetchrow(
        "SELECT quota_bytes, configured FROM workspaces WHERE name = $1", workspace
    )
    assert tuple(kept) == (150000, True)
    assert await usage(pool, f"{workspace}-b")
    assert (await differences(here))[0] == []


async def test_a_replay_asks_nobody_and_lists_what_stays_unsettled(here, pool):
    """A delete of what is known as a blob as well: the registry has to be asked whose it was."""
    workspace = f"w{uuid.uuid4().hex[:8]}"
    push = event(f"{workspace}/app", tag="1")
    target = {key: push["target"][key] for key in ("repository", "digest", "size")}
    twin = push | {
        "id": str(uuid.uuid4()),
        "target": target | {"mediaType": "application/octet-stream"},
    }
    delete = {
        **push,
        "id": str(uuid.uuid4()),
        "action": "delete",
        "timestamp": format_timestamp(time.time_ns()),
    }
    del target["size"]
    delete["target"] = target
    await publish(here, workspace, push, delete, twin)
    async with consuming(here, pool, cluster=await cluster_id(here)):
        await caught_up(here, pool, cluster=await cluster_id(here))
    held = await usage(pool, workspace)
    assert held
    found, replayed = await differences(here)
    assert found == []
    digest = bytes.fromhex(target["digest"].removeprefix("sha256:"))
    assert replayed.unsettled == [("default", target["repository"], digest)]
    await pool.execute("DELETE FROM manifest_checks")
    async with replaying(here) as rebuild:
        await rebuild.swap(tell=ignored)
    assert await usage(pool, workspace) == held
    waiting = await pool.fetch("SELECT digest FROM manifest_checks")
    assert digest in [row["digest"] for row in waiting]  # the topic has others' deletes as well


LACKS = {
    "read another Kafka cluster": """
INSERT INTO consumer_offsets (cluster_id, topic, partition, epoch, next_offset, owner)
VALUES ('an older cluster', 'registry.notifications', 0, 1, 100, 'x')""",
    "ends at offset": "UPDATE consumer_offsets SET next_offset = next_offset + 1000",
    "has other records than were read": r"UPDATE consumer_offsets SET head_digest = '\x00'",
    "found to be another": """
INSERT INTO log_breaks (cluster_id, topic, partition, kind, stored_offset, first_offset, end_offset,
                        resumed_offset, found_at)
VALUES ('c', 'registry.notifications', 0, 'replaced', 9, 0, 9, 0, now())""",
    "is gone": """
INSERT INTO consumer_offsets (cluster_id, topic, partition, epoch, next_offset, owner)
SELECT cluster_id, topic, 99, 1, 5, 'x' FROM consumer_offsets LIMIT 1""",
}


@pytest.mark.parametrize("what", LACKS)
async def test_a_log_that_does_not_hold_all_is_not_put_in_place(here, pool, what):
    await filled(here, pool)
    await pool.execute(LACKS[what])
    before = await ledgers.rows(pool)
    async with replaying(here) as rebuild:
        with pytest.raises(LogIncompleteError, match=what):
            await rebuild.swap(losing=1, tell=ignored)
    assert await ledgers.rows(pool) == before


async def test_images_that_only_the_live_ledger_has_go_by_their_number_alone(here, pool):
    """The log and the observations look the same whether they were lost, or never there."""
    workspace = await filled(here, pool)
    good = await ledgers.rows(pool)
    here_only = ManifestPushed(
        "default",
        f"{workspace}/app0",
        b"\1" * 32,
        (time.time_ns(), b"x" * 16),
        OCI_MANIFEST,
        700,
        "y",
    )
    await ledgers.recorder(pool).record([here_only], now=now())
    before = await ledgers.rows(pool)
    told: list[Change] = []
    for losing in (0, 2):
        async with replaying(here) as rebuild:
            with pytest.raises(LosesImagesError) as refused:
                await rebuild.swap(losing=losing, tell=told.append)
            assert refused.value.change == told[-1]
    assert await ledgers.rows(pool) == before
    assert {(change.lost, change.bytes_before - change.bytes_after) for change in told} == {
        (1, 700)
    }
    async with replaying(here) as rebuild:
        await rebuild.swap(losing=1, tell=told.append)
    assert await ledgers.rows(pool) == good


async def test_one_replay_at_a_time(here):
    async with replaying(here):
        with pytest.raises(BusyError):
            async with replaying(here):
                pass
