"""`verify` counts from the manifests alone: 0 on a good ledger, and it finds what was tampered with."""

import uuid
from datetime import UTC, datetime

import msgspec

from ledger.facts import BlobStored, ManifestPushed
from ledger.verify import keep, kept, verify
from tests.support import ledgers
from tests.support.histories import BLOBS, IMAGES, OCI_IMAGE, stamp

NOW = datetime(2026, 11, 23, tzinfo=UTC)


async def fill(pool):
    facts = [
        ManifestPushed("default", name, named, stamp(moment), OCI_IMAGE, size, "1", content)
        for moment, (named, _type, size, content) in enumerate(IMAGES)
        for name in ("acme/api", "other/api")
    ]
    await ledgers.recorder(pool).record([*facts, BlobStored(BLOBS[0], 700)], now=NOW)


async def outcome(pool, workspace=None):
    async with pool.acquire() as connection:
        return [item async for item in verify(connection, workspace)]


async def test_a_good_ledger_has_no_drift(pool):
    await fill(pool)
    found = await outcome(pool)
    assert [item.workspace for item in found] == ["acme", "other"]
    assert all(item.exact for item in found)
    assert {item.workspace: item.recounted_bytes for item in found} == await ledgers.usage(pool)


async def test_what_nobody_has_read_yet_is_told_beside_the_zero(pool):
    await fill(pool)
    unread = ManifestPushed("default", "acme/api", b"n" * 32, stamp(99), OCI_IMAGE, 500, "2", None)
    await ledgers.recorder(pool).record([unread], now=NOW)
    acme, other = await outcome(pool)
    assert acme.exact
    assert (acme.pending, other.pending) == (1, 0)


async def test_each_kind_of_wrong_counter_is_found_in_its_workspace_only(pool):
    await fill(pool)
    await pool.execute("UPDATE workspaces SET usage_bytes = usage_bytes + 5 WHERE name = 'acme'")
    other = await pool.fetchval("SELECT id FROM workspaces WHERE name = 'other'")
    for change, digest in (
        ("UPDATE workspace_digests SET refs = refs + 1", BLOBS[1]),
        ("UPDATE workspace_digests SET size = size + 1", BLOBS[2]),
        ("DELETE FROM workspace_digests", BLOBS[3]),
    ):
        await pool.execute(f"{change} WHERE workspace_id = $1 AND digest = $2", other, digest)
    acme, other = await outcome(pool)
    assert (acme.drift_bytes, acme.wrong, acme.exact) == (5, (), False)
    assert other.drift_bytes == 0
    assert {item.digest for item in other.wrong} == {BLOBS[1], BLOBS[2], BLOBS[3]}
    assert [item.workspace for item in await outcome(pool, "other")] == ["other"]


async def test_what_a_count_found_is_kept_and_a_difference_announced_until_the_next_one(pool):
    await fill(pool)

    async def count():
        counted = await outcome(pool)
        async with pool.acquire() as connection, connection.transaction():
            await keep(connection, counted, now=NOW, new_id=uuid.uuid4)
            return await kept(connection)

    good = await count()
    assert (good.drift_bytes, good.wrong_digests, good.workspaces) == (0, 0, ())
    await pool.execute("UPDATE workspaces SET usage_bytes = usage_bytes - 5 WHERE name = 'acme'")
    await pool.execute("UPDATE workspaces SET usage_bytes = usage_bytes + 7 WHERE name = 'other'")
    bad = await count()
    assert (bad.drift_bytes, bad.workspaces, bad.counted_at) == (12, ("acme", "other"), NOW)
    await pool.execute("UPDATE workspaces SET usage_bytes = usage_bytes + 5 WHERE name = 'acme'")
    await pool.execute("UPDATE workspaces SET usage_bytes = usage_bytes - 7 WHERE name = 'other'")
    assert await count() == good
    events = [
        (row["workspace"], msgspec.json.decode(row["data"])["drift_bytes"])
        for row in await pool.fetch(
            "SELECT workspace, data FROM outbox WHERE type LIKE '%drift.detected%' ORDER BY id"
        )
    ]
    assert events == [("acme", -5), ("other", 7)]
