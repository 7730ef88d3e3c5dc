"""On real Postgres: any order, duplicates and batches end in the same rows and the same bytes."""

import asyncio
import random
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from consumer.translate import facts_of
from ledger.facts import BlobStored, Content, ManifestDeleted, ManifestPushed
from registry.models import Notification
from registry.notifications import decode_event
from tests.support import ledgers
from tests.support.captures import all_captures
from tests.support.histories import (
    IMAGES,
    OCI_IMAGE,
    deliveries,
    digest,
    histories,
    stamp,
    truth_of,
)

NOW = datetime(2026, 11, 23, tzinfo=UTC)

# Known from the registry alone: events were lost, or garbage collection emits nothing.
NOT_TOLD_BY_EVENTS = {"queue_lost_on_restart", "garbage_collect"}
CAPTURES = [
    capture
    for capture in all_captures()
    if capture.has_references and capture.scenario not in NOT_TOLD_BY_EVENTS
]


async def record_all(pool, batches):
    recorder = ledgers.recorder(pool)
    for batch in batches:
        await recorder.record(batch, now=NOW)


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_any_delivery_of_a_history_ends_in_the_same_rows_and_the_truth(pool, data):
    history = data.draw(histories())
    batches = data.draw(deliveries(history))
    await ledgers.empty(pool)
    await record_all(pool, [history])
    in_order = await ledgers.rows(pool)
    await ledgers.empty(pool)
    await record_all(pool, batches)
    assert await ledgers.rows(pool) == in_order

    truth = truth_of(history)
    assert await ledgers.manifests(pool) == truth.manifests
    assert {
        (repository, tag): named
        for repository, tags in (await ledgers.tags(pool)).items()
        for tag, named in tags.items()
    } == truth.tags
    assert await ledgers.usage(pool) == truth.usage == await ledgers.recount(pool)
    assert await ledgers.references_agree(pool)


def orders(facts):
    """Batches: as it was; shuffled one by one; every fact twice, backwards."""
    shuffled = list(facts)
    random.Random(len(facts)).shuffle(shuffled)
    yield "in order", [facts]
    yield "shuffled", [[fact] for fact in shuffled]
    yield "doubled", [facts, facts[::-1]]


@pytest.mark.parametrize("capture", CAPTURES, ids=str)
async def test_a_captured_scenario_ends_in_its_truth(pool, capture):
    facts = [
        fact
        for raw in capture.raw_events()
        if (fact := facts_of("default", decode_event(raw))) is not None
    ]
    truth = capture.truth()
    expected = {
        name: item["bytes"]["c_workspace_dedup_all"] for name, item in truth["workspaces"].items()
    }
    # A name of one component has no workspace; the captures call it by its own name.
    single = {name for name in truth["repositories"] if "/" not in name}
    expected["_"] = sum(expected.pop(name, 0) for name in single)
    for order, batches in orders(facts):
        await ledgers.empty(pool)
        await record_all(pool, batches)
        assert {
            repository: {tag: f"sha256:{named.hex()}" for tag, named in tags.items()}
            for repository, tags in (await ledgers.tags(pool)).items()
        } == {name: item["tags"] for name, item in truth["repositories"].items() if item["tags"]}, (
            order
        )
        usage = await ledgers.usage(pool)
        assert usage == {name: size for name, size in expected.items() if size}, order
        assert usage == await ledgers.recount(pool), order


def image(moment, blobs, *, repository="acme/api", name="sized", tag=None):
    return ManifestPushed(
        "default",
        repository,
        digest(name),
        stamp(moment),
        OCI_IMAGE,
        100,
        tag,
        Content(blobs=tuple(blobs)),
    )


async def test_many_at_once_end_where_one_after_another_ends_also_as_the_cache_is_emptied(
    pool, monkeypatch
):
    batches = [
        [image(number, [], repository=f"w{number % 5}/app{number % 20}", name=f"m{number}")]
        for number in range(60)
    ]
    await record_all(pool, batches)
    in_turn = await ledgers.rows(pool)
    await ledgers.empty(pool)
    monkeypatch.setattr("ledger.record._MOST_CACHED", 0)
    recorder = ledgers.recorder(pool)

    async def lane(number):
        for batch in batches[number::12]:
            await recorder.record(batch, now=NOW)

    await asyncio.gather(*(lane(number) for number in range(12)))
    assert await ledgers.rows(pool) == in_turn


BLOB = digest("a blob of disputed size")


async def test_the_largest_declared_size_counts_and_goes_with_its_manifest(pool):
    recorder = ledgers.recorder(pool)
    small, large = image(1, [(BLOB, 10)], name="small"), image(2, [(BLOB, 1000)], name="large")
    await recorder.record([small], now=NOW)
    await recorder.record([large], now=NOW)
    assert await ledgers.usage(pool) == {"acme": 1200} == await ledgers.recount(pool)
    await recorder.record([ManifestDeleted("default", "acme/api", large.digest, stamp(3))], now=NOW)
    assert await ledgers.usage(pool) == {"acme": 110} == await ledgers.recount(pool)


@pytest.mark.parametrize("stored_first", [True, False])
async def test_what_storage_said_wins_in_every_workspace_and_is_told(pool, stored_first):
    recorder = ledgers.recorder(pool)
    pushes = [
        image(1, [(BLOB, 10)], repository="acme/api"),
        image(2, [(BLOB, 10)], repository="other/api"),
    ]
    stored = [BlobStored(BLOB, 5000)]
    for batch in (stored, pushes) if stored_first else (pushes, stored):
        await recorder.record(batch, now=NOW)
    assert await ledgers.usage(pool) == {"acme": 5100, "other": 5100} == await ledgers.recount(pool)
    told = await pool.fetch("SELECT workspace, data FROM outbox WHERE type LIKE '%size.mismatch%'")
    assert {row["workspace"] for row in told} == {"acme", "other"}


async def test_a_manifest_whose_content_comes_later_counts_its_document_until_then(pool):
    recorder = ledgers.recorder(pool)
    bare = ManifestPushed(
        "default", "acme/api", digest("late"), stamp(1), OCI_IMAGE, 100, "1", content=None
    )
    await recorder.record([bare], now=NOW)
    assert await ledgers.usage(pool) == {"acme": 100}
    await recorder.record([image(2, [(BLOB, 50)], name="late", tag="1")], now=NOW)
    assert await ledgers.usage(pool) == {"acme": 150} == await ledgers.recount(pool)


async def test_levels_follow_usage_and_the_last_one_told_is_the_current_one(pool):
    recorder = ledgers.recorder(pool, quota_bytes=1000)
    for moment, size in enumerate((100, 500, 500, 500)):
        await recorder.record(
            [image(moment, [(digest(f"layer {moment}"), size)], name=f"m{moment}")], now=NOW
        )
    events = await pool.fetch(
        "SELECT data->>'previous_level' AS old, data->>'level' AS new FROM outbox"
        " WHERE type LIKE '%level_changed%' ORDER BY id"
    )
    assert [tuple(row) for row in events] == [("ok", "warning"), ("warning", "exceeded")]
    assert await pool.fetchval("SELECT level FROM workspaces") == "exceeded"


async def test_duplicates_announce_nothing(pool):
    recorder = ledgers.recorder(pool)
    push = image(1, [(BLOB, 10)], tag="1")
    for _ in range(3):
        await recorder.record([push, push], now=NOW)
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 1


def test_the_captures_are_there_or_the_tests_above_say_why():
    if not all_captures():
        pytest.skip("no captured notifications beside this checkout (set RQ_CAPTURES)")
    assert len(CAPTURES) > 90
    assert isinstance(decode_event(CAPTURES[0].raw_events()[0]), Notification)
    assert len(IMAGES) == 4
